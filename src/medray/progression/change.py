"""What became of lesions and structures between time points: volumes, diameters, growth, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from medray.progression.diameters import Diameters, diameters_of
from medray.progression.lesions import Lesion, Track

__all__ = [
    "SURE",
    "VAGUE",
    "Amount",
    "Change",
    "Fate",
    "Interval",
    "amount_of",
    "change_between",
    "doubling_of",
    "fate_of",
    "longest_of",
    "structure_change",
]

Fate = Literal["stable", "grown", "shrunk", "new", "vanished", "split", "merged", "absent", "unseen"]
"""What became of a lesion. ``unseen``: one of the scans doesn't show where the lesion is, or not all of it."""
Interval = tuple[float, float]
ROUNDING = 1.12 / math.sqrt(12)
"""Standard deviation, in voxels, of what a border voxel that is in or out adds to a volume: that of a uniform share, by what
neighbours have in common: 1.12 on ellipsoids of 3 to 7 mm that lie anyhow on grids of 0.9 to 1.4 mm."""
SURE = 1.96
"""Standard deviations of a 95 % interval."""
VAGUE = 0.5
"""Deviation as a share of a volume up to which that of its logarithm is the same."""
SCALE_DEVIATION = 0.003
"""Of the scale between two scans, as the affine says it: 0.0029 over the 20 people of ``benchmarks/track.py``."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A volume and how sure it is.

    Attributes:
        mm3: Volume.
        deviation_mm3: Standard deviation of a repeated scan's.
    """

    mm3: float
    deviation_mm3: float

    def scaled(self, factor: float) -> Amount:
        """Return the volume in a space that is so many times as large."""
        return Amount(self.mm3 * factor, self.deviation_mm3 * factor)

    @property
    def relative(self) -> float:
        """Deviation as a share of the volume."""
        return self.deviation_mm3 / self.mm3 if self.mm3 else 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """Between two time points.

    Attributes:
        mm3: Of the volume, later less earlier.
        interval_mm3: Its 95 % interval.
        percent: Of the earlier volume; None where there was none.
        interval_percent: Its 95 % interval; None, as that of the rate, where a volume is too unsure to say.
        rate_per_year: Of growth, the logarithm's: 0.7 doubles in a year. None where a volume is nought or no time has passed.
        interval_rate: Its 95 % interval.
        doubling_days: Time in which the volume doubles at that rate; negative where it halves; None where it stays.
        interval_doubling: Its 95 % interval; None where the rate's holds nought: it may double, halve or stay.
    """

    mm3: float
    interval_mm3: Interval
    percent: float | None
    interval_percent: Interval | None
    rate_per_year: float | None
    interval_rate: Interval | None
    doubling_days: float | None
    interval_doubling: Interval | None


def amount_of(lesions: Sequence[Lesion], *, repeatability: float = 0.0) -> Amount:
    """Measure the volume of a lesion's pieces.

    A border voxel is in or out although the border runs through it; see `ROUNDING`. Beside it stand what the network doubts
    (see `medray.progression.doubt`) and what the one who segments does differently another time.

    Args:
        lesions: The pieces.
        repeatability: Within-patient coefficient of variation of repeated scans, such as 0.05; of who drew or said the mask.
    """
    voxels = [float(abs(np.linalg.det(piece.affine[:3, :3]))) for piece in lesions]
    mm3 = sum(piece.volume_mm3 for piece in lesions)
    rounding = sum((ROUNDING * voxel) ** 2 * _border(piece) for piece, voxel in zip(lesions, voxels, strict=True))
    doubt = sum(piece.doubt_mm3 for piece in lesions)
    return Amount(mm3, math.sqrt(rounding + doubt**2 + (repeatability * mm3) ** 2))


def change_between(earlier: Amount, later: Amount, years: float) -> Change:
    """Compare two volumes; the percentage's interval is that of a ratio of independent values (first order, logarithms).

    Where a volume is so unsure that this no longer holds, beyond `VAGUE`, only the difference has an interval.
    """
    deviation = math.hypot(earlier.deviation_mm3, later.deviation_mm3)
    difference = later.mm3 - earlier.mm3
    interval = (difference - SURE * deviation, difference + SURE * deviation)
    if not earlier.mm3:
        return Change(difference, interval, None, None, None, None, None, None)
    ratio = later.mm3 / earlier.mm3
    percent, rate = 100 * (ratio - 1), math.log(ratio) / years if ratio and years else None
    if max(earlier.relative, later.relative) > VAGUE:
        return Change(difference, interval, percent, None, rate, None, _doubling(rate), None)
    half = SURE * math.hypot(earlier.relative, later.relative)
    bounds = (100 * (ratio / math.exp(half) - 1), 100 * (ratio * math.exp(half) - 1))
    if rate is None:
        return Change(difference, interval, percent, bounds, None, None, None, None)
    rates = (rate - abs(half / years), rate + abs(half / years))
    return Change(difference, interval, percent, bounds, rate, rates, *doubling_of(rate, rates))


def doubling_of(rate: float, interval: Interval) -> tuple[float | None, Interval | None]:
    """Return the days in which a volume doubles at a rate a year, and their interval; see `Change`."""
    low, high = map(_doubling, interval)
    sure = interval[0] > 0 or interval[1] < 0
    return _doubling(rate), (high, low) if sure and low and high else None


def _doubling(rate: float | None) -> float | None:
    return 365.25 * math.log(2) / rate if rate else None


def fate_of(track: Track, earlier: int, later: int, *, repeatability: float = 0.0) -> Fate:
    """Say what became of a lesion between two time points.

    Pieces that come or go count first, then whether the volumes' change is beyond its 95 % interval.
    """
    before, after = track.lesions[earlier], track.lesions[later]
    if track.unseen & {earlier, later}:
        return "unseen"
    if not before or not after:
        return "absent" if not before and not after else "new" if after else "vanished"
    if len(before) != len(after):
        return "split" if len(after) > len(before) else "merged"
    first, second = (amount_of(pieces, repeatability=repeatability) for pieces in (before, after))
    low, high = change_between(first, second, 0.0).interval_mm3
    return "grown" if low > 0 else "shrunk" if high < 0 else "stable"


def structure_change(earlier: Amount, later: Amount, scale: float, years: float) -> Change:
    """Compare the volumes of a whole structure, such as a brain's tissue, as the earlier scanner would have seen both.

    Args:
        earlier: At the earlier time point.
        later: At the later one.
        scale: By what factor the later scan shows everything larger: the determinant of the affine between them
            (Smith et al., SIENA: NeuroImage 17 (2002) 479-489, where the skull holds the scale).
        years: Between them.
    """
    seen = later.scaled(1 / scale)
    return change_between(earlier, Amount(seen.mm3, math.hypot(seen.deviation_mm3, SCALE_DEVIATION * seen.mm3)), years)


def longest_of(track: Track, time_point: int) -> Diameters | None:
    """Return the diameters of a lesion's longest piece; None where it isn't there."""
    found = [diameters_of(piece.indices, piece.affine) for piece in track.lesions[time_point]]
    return max(found, key=lambda diameters: diameters.longest_mm, default=None)


def _border(lesion: Lesion) -> int:
    """Count voxels with a face outside."""
    low = lesion.indices.min(axis=0) - 1
    filled: NDArray[np.bool_] = np.zeros(lesion.indices.max(axis=0) - low + 2, bool)
    filled[tuple((lesion.indices - low).T)] = True
    return int(len(lesion.indices) - np.count_nonzero(binary_erosion(filled)))
