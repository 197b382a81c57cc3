"""RECIST 1.1: the response of target lesions, by the sum of their longest diameters.

Eisenhauer et al., New response evaluation criteria in solid tumours: revised RECIST guideline (version 1.1), European Journal
of Cancer 45 (2009) 228-247, section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medray.progression.change import longest_of
from medray.progression.lesions import Track

__all__ = ["MEASURABLE_MM", "MOST_TARGETS", "Category", "Response", "response_of"]

Category = Literal["CR", "PR", "SD", "PD"]
MEASURABLE_MM = 10.0
"""Longest diameter from which a lesion may be a target (section 3.1.1, CT with slices of 5 mm at most)."""
MOST_TARGETS = 5
"""Targets in all (section 4.1)."""
PARTIAL, PROGRESSIVE, PROGRESSIVE_MM = 0.30, 0.20, 5.0


@dataclass(frozen=True, slots=True)
class Response:
    """Of one time point.

    Attributes:
        sum_mm: Of the targets' longest diameters.
        category: CR, PR, SD or PD; None at baseline, and where there is no target.
        new_lesions: How many there are that were nowhere before.
    """

    sum_mm: float
    category: Category | None
    new_lesions: int


def response_of(tracks: Sequence[Track]) -> list[Response]:
    """Return the response at each time point, the first of which is the baseline.

    Targets are the longest lesions of the baseline, at most `MOST_TARGETS` of at least `MEASURABLE_MM`. All are taken as of one
    organ; the limit of two an organ is left to the reader.
    """
    count = len(tracks[0].lesions) if tracks else 0
    lengths = [[_length(track, at) for at in range(count)] for track in tracks]
    targets = sorted((length for length in lengths if length[0] >= MEASURABLE_MM), reverse=True)[:MOST_TARGETS]
    sums = [sum(length[at] for length in targets) for at in range(count)]
    responses = []
    for at in range(count):
        new = sum(bool(track.lesions[at]) and not any(track.lesions[:at]) for track in tracks) if at else 0
        category = _category(sums[: at + 1], new) if at and targets else "PD" if new else None
        responses.append(Response(sums[at], category, new))
    return responses


def _length(track: Track, time_point: int) -> float:
    found = longest_of(track, time_point)
    return found.longest_mm if found else 0.0


def _category(sums: Sequence[float], new: int) -> Category:
    baseline, nadir, now = sums[0], min(sums[:-1]), sums[-1]
    if new or (now - nadir >= PROGRESSIVE_MM and now >= (1 + PROGRESSIVE) * nadir):
        return "PD"
    if now == 0:
        return "CR"
    return "PR" if now <= (1 - PARTIAL) * baseline else "SD"
