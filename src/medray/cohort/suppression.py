"""Who must not be in a cohort any more: ``ROOT/erased.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.errors import InputError, NotFoundError
from medray.storage.location import Location

__all__ = ["Suppressed", "read_suppressed", "write_suppressed"]

ERASED = "erased.json"


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Suppressed:
    """What was erased.

    Attributes:
        subjects: Pseudonyms of patients.
        replaced: Id of a version that is no more to the one that was current then.
    """

    subjects: tuple[str, ...] = ()
    replaced: Mapping[str, str] = Field(default_factory=dict)


def read_suppressed(root: Location) -> Suppressed:
    """Return who was erased from a cohort; nobody where nobody was.

    Raises:
        InputError: If the list is damaged: nothing may be committed then, for it might bring somebody back.
    """
    try:
        data = json.loads(root.join(ERASED).read())
    except NotFoundError:
        return Suppressed()
    except ValueError:
        raise InputError(f"{root.path}/{ERASED} is damaged: get it from a backup, it says who must not come back") from None
    return config.load(Suppressed, data, what=ERASED)


def write_suppressed(root: Location, suppressed: Suppressed) -> None:
    """Write the list."""
    root.join(ERASED).write(json.dumps(config.dump(suppressed), indent=1).encode())
