"""RECIST 1.1: the response of target lesions, by the sum of their longest diameters.

Eisenhauer et al., New response evaluation criteria in solid tumours: revised RECIST guideline (version 1.1), European Journal
of Cancer 45 (2009) 228-247, section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medray.progression.change import SURE, amount_of
from medray.progression.diameters import Diameters, diameters_of
from medray.progression.lesions import Track

__all__ = ["MEASURABLE_MM", "MOST_TARGETS", "Category", "Response", "response_of"]

Category = Literal["CR", "PR", "SD", "PD", "NE"]
MEASURABLE_MM = 10.0
"""Longest diameter from which a lesion may be a target (section 3.1.1, CT with slices of 5 mm at most)."""
MOST_TARGETS = 5
"""Targets in all (section 4.1)."""
PARTIAL, PROGRESSIVE, PROGRESSIVE_MM = 0.30, 0.20, 5.0


@dataclass(frozen=True, slots=True)
class Response:
    """Of one time point.

    Attributes:
        sum_mm: Of the longest diameters of the targets that the scan shows.
        deviation_mm: Standard deviation of that.
        category: CR, PR, SD or PD, NE where a scan doesn't show all that it would take to say; None at baseline, and where
            there is no target.
        new_lesions: How many there are that were nowhere before. Only such count as new, here and for the category, whose
            volume is surely not nought (section 4.3.5: a new lesion has to be unequivocal).
    """

    sum_mm: float
    deviation_mm: float
    category: Category | None
    new_lesions: int


def response_of(tracks: Sequence[Track]) -> list[Response]:
    """Return the response at each time point, the first of which is the baseline.

    Targets are the longest lesions of the baseline, at most `MOST_TARGETS` of at least `MEASURABLE_MM`; of one in pieces
    all are added up (section 4.2). All are taken as of one organ; the limit of two an organ is left to the reader.
    """
    count = len(tracks[0].lesions) if tracks else 0
    measurable = [track for track in tracks if 0 not in track.unseen and _length(track, 0) >= MEASURABLE_MM]
    targets = sorted(measurable, key=lambda track: -_length(track, 0))[:MOST_TARGETS]
    shown = [[track for track in targets if at not in track.unseen] for at in range(count)]
    sums = [sum(_length(track, at) for track in seen) for at, seen in enumerate(shown)]
    deviations = [
        math.hypot(*(one.deviation_mm for track in seen for one in _found(track, at))) for at, seen in enumerate(shown)
    ]
    responses = []
    for at in range(count):
        new = sum(_is_new(track, at) and not any(_is_new(track, one) for one in range(1, at)) for track in tracks) if at else 0
        responses.append(Response(sums[at], deviations[at], _category(tracks, targets, sums[: at + 1]), new))
    return responses


def _is_new(track: Track, time_point: int) -> bool:
    """Tell whether a lesion is surely there that baseline, which shows its place, hadn't."""
    if not track.lesions[time_point] or track.lesions[0] or 0 in track.unseen:
        return False
    amount = amount_of(track.lesions[time_point])
    return amount.mm3 > SURE * amount.deviation_mm3


def _length(track: Track, time_point: int) -> float:
    return sum(one.longest_mm for one in _found(track, time_point))


def _found(track: Track, time_point: int) -> list[Diameters]:
    return [diameters_of(piece.indices, piece.affine) for piece in track.lesions[time_point]]


def _category(tracks: Sequence[Track], targets: Sequence[Track], sums: Sequence[float]) -> Category | None:
    """Return the category at the last of some time points; while a lesion is there that baseline hadn't, progression.

    A target that a scan doesn't show makes that time point not evaluable, but what is seen may be progression by itself
    (section 4.4.2, of missing assessments).
    """
    at = len(sums) - 1
    if not at:
        return None
    if any(_is_new(track, at) for track in tracks):
        return "PD"
    if not targets:
        return None
    whole = [all(time_point not in track.unseen for track in targets) for time_point in range(at + 1)]
    baseline, now = sums[0], sums[-1]
    nadir = min(total for total, is_whole in zip(sums[:-1], whole[:-1], strict=True) if is_whole)
    if now and (not nadir or (now - nadir >= PROGRESSIVE_MM and now >= (1 + PROGRESSIVE) * nadir)):
        return "PD"
    if not whole[at] or (not now and any(at in track.unseen for track in tracks)):
        return "NE"
    gone = not any(track.lesions[at] for track in tracks)
    return "CR" if gone else "PR" if now <= (1 - PARTIAL) * baseline else "SD"
