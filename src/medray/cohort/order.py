"""In which order a patient's studies were made, by what is said of them: DICOM's date and time, or a session's name."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["in_order", "order_told"]

FIRST = re.compile(r"(?<![a-z])(baseline|base|bl|initial|screening|scr|pre|preop|preoperative)(?![a-z])", re.IGNORECASE)
"""Words for what comes before all else."""
DATE = re.compile(r"\d{8,}")
"""From so many digits on, they are a date and not a count."""
Order = tuple[int, str, tuple[tuple[int, int, str], ...]]


def in_order(when: str) -> Order:
    """Return what sorts studies: names for a baseline first, then dates, then names whose numbers are compared as such."""
    date = DATE.search(when)
    pieces = tuple(_piece(piece) for piece in re.split(r"(\d+)", when.lower()) if piece)
    if date:
        return 1, date.group(), pieces
    return (0 if FIRST.search(when) else 2), "", pieces


def order_told(names: Sequence[str]) -> bool:
    """Say whether names tell in which order they were given: one is the baseline's, or none, and the rest only count."""
    others = [name for name in names if not FIRST.search(name)]
    return len(names) - len(others) <= 1 and len({re.sub(r"\d+", "0", name.lower()) for name in others}) <= 1


def _piece(piece: str) -> tuple[int, int, str]:
    return (0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
