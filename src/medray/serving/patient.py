"""What a request to track says: scans of one patient, and how they are to be compared."""

from __future__ import annotations

from dataclasses import dataclass, field

from medray.progression.history import Tracking
from medray.serving.results import BOTH, JSON, REPORT
from medray.serving.sources import Reference

__all__ = ["HISTORIES", "Patient"]

HISTORIES = (JSON, BOTH, REPORT)
"""What a history may be asked for as: JSON; a form with that, the report's page and the aligned images; the last scan's SR."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Scans of one patient, and how they are to be compared.

    Attributes:
        scans: Each a file, or where it is.
        days: When each was made, counted from any day; by DICOM's StudyDate where None.
        how: See `Tracking`.
    """

    scans: tuple[bytes | Reference, ...]
    days: tuple[float | None, ...]
    how: Tracking = field(default_factory=Tracking)
