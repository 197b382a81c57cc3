"""When a scan was made, by what is said of it."""

from __future__ import annotations

import re
from datetime import date

__all__ = ["day_of_text"]


def day_of_text(when: str) -> float | None:
    """Return the day of what orders studies: DICOM's date, or a session's name with one in it; None for other names."""
    found = re.search(r"(\d{4})(\d{2})(\d{2})", when)
    try:
        return float(date(*map(int, found.groups())).toordinal()) if found else None
    except ValueError:
        return None
