"""RECIST 1.1: the response of target lesions, by the sum of their longest diameters.

Eisenhauer et al., New response evaluation criteria in solid tumours: revised RECIST guideline (version 1.1), European Journal
of Cancer 45 (2009) 228-247, section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medray.progression.diameters import diameters_of
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

    Targets are the longest lesions of the baseline, at most `MOST_TARGETS` of at least `MEASURABLE_MM`; of one in pieces
    all are added up (section 4.2). All are taken as of one organ; the limit of two an organ is left to the reader.
    """
    count = len(tracks[0].lesions) if tracks else 0
    lengths = [[_length(track, at) for at in range(count)] for track in tracks]
    targets = sorted((length for length in lengths if length[0] >= MEASURABLE_MM), reverse=True)[:MOST_TARGETS]
    sums = [sum(length[at] for length in targets) for at in range(count)]
    responses = []
    for at in range(count):
        new = sum(bool(track.lesions[at]) and not any(track.lesions[:at]) for track in tracks) if at else 0
        responses.append(Response(sums[at], _category(tracks, sums[: at + 1], targets=bool(targets)), new))
    return responses


def _length(track: Track, time_point: int) -> float:
    return sum(diameters_of(piece.indices, piece.affine).longest_mm for piece in track.lesions[time_point])


def _category(tracks: Sequence[Track], sums: Sequence[float], *, targets: bool) -> Category | None:
    """Return the category at the last of some time points; while a lesion is there that baseline hadn't, progression."""
    at = len(sums) - 1
    if not at:
        return None
    if any(track.lesions[at] and not track.lesions[0] for track in tracks):
        return "PD"
    if not targets:
        return None
    baseline, nadir, now = sums[0], min(sums[:-1]), sums[-1]
    if now and (not nadir or (now - nadir >= PROGRESSIVE_MM and now >= (1 + PROGRESSIVE) * nadir)):
        return "PD"
    if not any(track.lesions[at] for track in tracks):
        return "CR"
    return "PR" if now <= (1 - PARTIAL) * baseline else "SD"
