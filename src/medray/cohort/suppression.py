"""Who must not be in a cohort any more, and which versions are no more for their sake: ``ROOT/erased/SUBJECT.json``.

A file a patient: two who erase two patients at the same time don't undo what the other wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.errors import InputError, NotFoundError
from medray.storage.location import Location, file_name

__all__ = ["Suppressed", "read_suppressed", "standing", "suppress"]

ERASED = "erased"


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Suppressed:
    """A patient who was erased.

    Attributes:
        subject: Their pseudonym.
        replaced: Id of a version that had them to the one that stands in its place.
        series: Of theirs, in any version: whoever calls again after a kill looks for what is left by them.
        labels: Content hashes of what annotators drew on these.
    """

    subject: str
    series: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    replaced: Mapping[str, str] = Field(default_factory=dict)


def read_suppressed(root: Location) -> dict[str, Suppressed]:
    """Return who was erased from a cohort, by pseudonym; nobody where nobody was.

    Raises:
        InputError: If what is known of one is damaged: nothing may be committed then, for it might bring somebody back.
    """
    folder = root.join(ERASED)
    try:
        names = [entry.name for entry in folder.entries()]
    except NotFoundError:
        return {}
    found = [_read(folder, name) for name in names if name.endswith(".json")]
    return {one.subject: one for one in found}


def suppress(root: Location, suppressed: Suppressed) -> None:
    """Write down who was erased."""
    data = json.dumps(config.dump(suppressed), indent=1).encode()
    root.join(ERASED, f"{file_name(suppressed.subject)}.json").write(data)


def standing(root: Location, version: str) -> str:
    """Return the id of the version that stands where one stood: itself, unless somebody was erased from it."""
    if not version or root.join("versions", f"{version}.json").exists():
        return version
    replaced: dict[str, set[str]] = {}
    for one in read_suppressed(root).values():
        for old, new in one.replaced.items():
            replaced.setdefault(old, set()).add(new)
    known, left = {version}, [version]
    while left:
        for new in sorted(replaced.get(left.pop(), set()) - known):
            if root.join("versions", f"{new}.json").exists():
                return new
            known.add(new)
            left.append(new)
    return version


def _read(folder: Location, name: str) -> Suppressed:
    try:
        data = json.loads(folder.join(name).read())
    except ValueError:
        told = f"{folder.path} holds a damaged file: get it from a backup, it says who must not come back"
        raise InputError(told) from None
    return config.load(Suppressed, data, what=f"{ERASED}/{name}")
