"""Which model a series is for: rules on what the series says of itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from medray.config import STRICT
from medray.errors import ConfigError

if TYPE_CHECKING:
    from medray.formats.dicom_header import SeriesFacts

__all__ = ["Rule", "models_for"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rule:
    """One model and the series that it is for: all that is said must fit.

    Attributes:
        model: Reference to the model.
        modality: Modality, such as ``"MR"``; any where it is empty.
        body_part: Regular expression for BodyPartExamined, whatever its case.
        description: The same for SeriesDescription, ProtocolName or StudyDescription.
        least: Objects that a series has at least: a localizer of three slices is none.
    """

    model: str
    modality: str = ""
    body_part: str = ""
    description: str = ""
    least: int = 1

    def __post_init__(self) -> None:
        for pattern in (self.body_part, self.description):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"rule for {self.model}: {pattern!r} is no regular expression ({error})") from None

    def fits(self, facts: SeriesFacts, objects: int) -> bool:
        """Tell whether a series of so many objects is for the model."""
        return (
            objects >= self.least
            and self.modality in {"", facts.modality}
            and bool(re.search(self.body_part, facts.body_part, re.IGNORECASE))
            and bool(re.search(self.description, facts.description, re.IGNORECASE))
        )


def models_for(rules: Sequence[Rule], facts: SeriesFacts, objects: int) -> list[str]:
    """Return the references of the models that a series is for, each once."""
    return list(dict.fromkeys(rule.model for rule in rules if rule.fits(facts, objects)))
