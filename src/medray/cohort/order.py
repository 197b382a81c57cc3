"""In which order a patient's studies were made, by what is said of them: DICOM's date and time, or a session's name."""

from __future__ import annotations

import re

__all__ = ["in_order", "tells_order"]

FIRST = re.compile(r"(?<![a-z])(baseline|base|bl|initial|screening|scr|pre|preop|preoperative)(?![a-z])", re.IGNORECASE)
"""Words for what comes before all else."""
DATE_DIGITS = 8
"""From so many on, digits are a date and not a count."""


def in_order(when: str) -> tuple[bool, tuple[tuple[int, int, str], ...]]:
    """Return what sorts studies: names for a baseline first, numbers by what they count, dates by their digits."""
    pieces = re.split(r"(\d+)", when.lower())
    return not FIRST.search(when), tuple(_piece(piece) for piece in pieces if piece)


def tells_order(when: str) -> bool:
    """Say whether a name says when something was among others: by a number, or as their baseline."""
    return bool(re.search(r"\d", when) or FIRST.search(when))


def _piece(piece: str) -> tuple[int, int, str]:
    """Return digits so that they are compared as numbers, or as a date; letters come after."""
    if not piece.isdecimal():
        return 2, 0, piece
    return (1, 0, piece) if len(piece) >= DATE_DIGITS else (0, int(piece), "")
