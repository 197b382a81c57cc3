"""Which scans of a cohort's patient are time points, and when a scan was made by what is said of it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date

from medray.cohort.manifest import SeriesRow

__all__ = ["day_of_text", "series_of"]

ALIKE = 1.0
"""Up to which two series may be of one sequence; see `_unlike`. It is 1 between voxels of 1 mm and of 1.4 mm each way."""


def day_of_text(when: str) -> float | None:
    """Return the day of what orders studies: DICOM's date, or a session's name with one in it; None for other names."""
    found = re.search(r"(\d{4})(\d{2})(\d{2})", when)
    try:
        return float(date(*map(int, found.groups())).toordinal()) if found else None
    except ValueError:
        return None


def series_of(rows: Sequence[SeriesRow]) -> tuple[SeriesRow, ...]:
    """Return one series of each study, all of one modality and as much alike as there are.

    A study may hold several sequences, and nothing in a cohort says which is which: the largest series to which each study has
    one of much the same voxels stands for the patient, and those alike go with it.
    """
    kinds: dict[str, dict[int, list[SeriesRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kinds[row.modality][row.time_point].append(row)
    studies = max(sorted(kinds.items()), key=lambda kind: len(kind[1]))[1]
    choices: list[list[SeriesRow]] = [
        [min(studies[at], key=lambda row: _apart(one, row)) for at in sorted(studies)]
        for study in studies.values()
        for one in study
    ]
    return tuple(min(choices, key=_worth))


def _apart(one: SeriesRow, other: SeriesRow) -> tuple[float, int, str]:
    """Sort series by how much their voxels differ from one's, then by how much their number does."""
    return _unlike(one, other), abs(math.prod(one.shape) - math.prod(other.shape)), other.series


def _worth(chosen: Iterable[SeriesRow]) -> tuple[float, int, str]:
    """Sort choices: first by how far beyond what repositioning does series differ, then by voxels."""
    rows = list(chosen)
    unlike = max(_unlike(rows[0], row) for row in rows)
    return max(unlike - ALIKE, 0.0), -sum(math.prod(row.shape) for row in rows), rows[0].series


def _unlike(one: SeriesRow, other: SeriesRow) -> float:
    """Return how much two series' voxels differ in size, whichever way they lie: the sum of spacings' ratios' logarithms."""
    return sum(abs(math.log(a / b)) for a, b in zip(sorted(one.spacing_mm), sorted(other.spacing_mm), strict=True))
