"""Which scans of a cohort's patient are time points, and when a scan was made by what is said of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import date

from medray.cohort.manifest import SeriesRow

__all__ = ["day_of_text", "series_of"]


def day_of_text(when: str) -> float | None:
    """Return the day of what orders studies: DICOM's date, or a session's name with one in it; None for other names."""
    found = re.search(r"(\d{4})(\d{2})(\d{2})", when)
    try:
        return float(date(*map(int, found.groups())).toordinal()) if found else None
    except ValueError:
        return None


def series_of(rows: Sequence[SeriesRow]) -> tuple[SeriesRow, ...]:
    """Return one series of each study, all of one modality."""
    kinds: dict[str, dict[int, SeriesRow]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (_voxels(row), row.series)):
        kinds[row.modality][row.time_point] = row  # the largest comes last
    most = max(kinds.values(), key=len)
    return tuple(most[at] for at in sorted(most))


def _voxels(row: SeriesRow) -> int:
    return row.shape[0] * row.shape[1] * row.shape[2]
