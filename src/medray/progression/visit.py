"""A patient's scans in time: as they come, and with what was found in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medray.errors import InputError
from medray.formats.dicom_results import Source
from medray.imaging.volume import Volume

__all__ = ["TimePoint", "Visit", "require_one_patient", "years_between"]

DAYS_A_YEAR = 365.25


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """One scan of a patient.

    Attributes:
        name: Of it.
        day: When, counted from any day.
        image: Of one channel.
        series: What it is in DICOM; None where it isn't.
        patient: Whose it is, as `medray.formats.dicom_header.DicomHeader` has it; empty where it doesn't say.
    """

    name: str
    day: float
    image: Volume
    series: Source | None = None
    patient: str = ""

    @property
    def identity(self) -> str:
        """Of the scan: SeriesInstanceUID or, without one, a hash of its voxels."""
        if self.series is not None:
            return self.series.series
        return hashlib.sha256(np.ascontiguousarray(self.image.voxels).tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class TimePoint(Visit):
    """One scan of a patient with what is in it.

    Attributes:
        mask: Label map on the image's grid.
        likely: Label to how probable it is at each voxel ``(I, J, K)``, 255 standing for certainty; of a mask that a network
            made, for labels that are followed.
    """

    mask: Volume = field(kw_only=True)
    likely: Mapping[str, NDArray[np.uint8]] = field(kw_only=True, default_factory=dict)


def require_one_patient(visits: Sequence[Visit]) -> None:
    """Refuse to compare what says that it is of several patients.

    Raises:
        InputError: If it does.
    """
    named = [visit.patient.rpartition("\0") for visit in visits if visit.patient]
    issuers, numbers = {issuer for issuer, _, _ in named}, {number for _, _, number in named}
    if len(numbers) > 1 or (len(issuers) > 1 and "" not in issuers):  # archives add issuers, and strip them
        raise InputError(
            "the scans say that they are of several patients: give scans of one, or say one_patient where two hospitals number "
            "the same person differently"
        )


def years_between(earlier: Visit, later: Visit) -> float:
    """Return how many years lie between two scans."""
    return (later.day - earlier.day) / DAYS_A_YEAR
