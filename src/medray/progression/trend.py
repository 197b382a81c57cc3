"""Growth over three time points and more: a line through logarithms for each lesion, and what a patient's have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from medray.progression.change import Amount, Interval, doubling_of

__all__ = ["Trend", "common_trend", "trend_of"]

LEAST_POINTS = 3


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth of a volume.

    Attributes:
        rate_per_year: Slope of the volume's logarithm.
        deviation: Of the slope: its standard error.
        interval: Its 95 % interval.
        doubling_days: At that rate; negative where the volume halves; None where it stays.
        interval_doubling: Its 95 % interval; None where the rate's holds nought.
    """

    rate_per_year: float
    deviation: float
    interval: Interval
    doubling_days: float | None
    interval_doubling: Interval | None


def trend_of(years: Sequence[float], amounts: Sequence[Amount | None]) -> Trend | None:
    """Fit a line through the logarithms of volumes, weighted by how sure each is; None for fewer than three that aren't nought.

    Time points without an amount are left out.

    The interval is Student's, of the residuals or of the volumes' own uncertainty, whichever is larger.
    """
    seen = [(year, amount) for year, amount in zip(years, amounts, strict=True) if amount and amount.mm3 > 0]
    if len(seen) < LEAST_POINTS:
        return None
    x = np.array([year for year, _ in seen])
    y = np.log([amount.mm3 for _, amount in seen])
    weight = 1 / np.maximum([amount.relative for _, amount in seen], 1e-6) ** 2
    middle = np.average(x, weights=weight)
    spread = float((weight * (x - middle) ** 2).sum())
    if not spread:
        return None
    slope = float((weight * (x - middle) * y).sum() / spread)
    residual = y - np.average(y, weights=weight) - slope * (x - middle)
    degrees = len(seen) - 2
    excess = max(1.0, float((weight * residual**2).sum()) / degrees)
    return _trend(slope, math.sqrt(excess / spread), degrees)


def common_trend(trends: Sequence[Trend]) -> Trend | None:
    """Return the mean growth of a patient's lesions, which may differ among themselves: a mixed-effects model in two stages.

    Each lesion's slope is a draw from the patient's, with variance by moments (DerSimonian and Laird, Controlled Clinical
    Trials 7 (1986) 177-188).

    Args:
        trends: Of each lesion; one alone stands for all.
    """
    if len(trends) < 2:
        return trends[0] if trends else None
    slopes = np.array([trend.rate_per_year for trend in trends])
    within = np.array([trend.deviation**2 for trend in trends]) + 1e-12
    weight = 1 / within
    fixed = np.average(slopes, weights=weight)
    surplus = float((weight * (slopes - fixed) ** 2).sum()) - (len(slopes) - 1)
    scale = float(weight.sum() - (weight**2).sum() / weight.sum())
    between = max(0.0, surplus / scale) if scale > 0 else 0.0
    weight = 1 / (within + between)
    return _trend(float(np.average(slopes, weights=weight)), 1 / math.sqrt(float(weight.sum())), len(slopes) - 1)


def _trend(slope: float, deviation: float, degrees: int) -> Trend:
    half = float(student.ppf(0.975, degrees)) * deviation
    interval = (slope - half, slope + half)
    return Trend(slope, deviation, interval, *doubling_of(slope, interval))
