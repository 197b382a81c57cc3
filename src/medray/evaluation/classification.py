"""How well probabilities tell what is there from what isn't, and whether they mean what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CalibrationBin", "auc", "calibration_bins", "expected_calibration_error", "sensitivity_at_specificity"]


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """One bar of a reliability plot.

    Attributes:
        count: How many cases.
        predicted: Their mean probability.
        observed: The share that has the finding.
    """

    count: int
    predicted: float
    observed: float


def auc(probabilities: ArrayLike, present: ArrayLike) -> float:
    """Return the area under the ROC curve, ties counted half (Hanley & McNeil, Radiology 143 (1982) 29-36).

    Args:
        probabilities: ``(N,)``.
        present: ``(N,)``, whether each case has the finding.

    Returns:
        0 to 1; NaN unless both kinds of case are there.
    """
    values, positive = np.asarray(probabilities, np.float64), np.asarray(present, bool)
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return math.nan
    from scipy.stats import rankdata  # noqa: PLC0415 - scipy.stats takes half a second to load, and every worker reads this file

    ranks = rankdata(values)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))


def sensitivity_at_specificity(probabilities: ArrayLike, present: ArrayLike, specificity: float) -> float:
    """Return the highest sensitivity of a threshold whose specificity is at least ``specificity``; NaN without both kinds."""
    values, positive = np.asarray(probabilities, np.float64), np.asarray(present, bool)
    negatives = np.sort(values[~positive])
    if not negatives.size or not positive.any():
        return math.nan
    least = math.ceil(specificity * negatives.size - 1e-9)
    threshold = -math.inf if least == 0 else negatives[least - 1]
    return float(np.mean(values[positive] > threshold))


def calibration_bins(probabilities: ArrayLike, present: ArrayLike, *, bins: int = 10) -> list[CalibrationBin]:
    """Sort cases into equally wide bins of probability; empty ones are left out."""
    values, positive = np.asarray(probabilities, np.float64), np.asarray(present, np.float64)
    places = np.minimum((values * bins).astype(int), bins - 1)
    return [_bin(values[places == place], positive[places == place]) for place in np.unique(places).tolist()]


def expected_calibration_error(probabilities: ArrayLike, present: ArrayLike, *, bins: int = 10) -> float:
    """Return the mean distance of a bin's probability from what is observed, by cases (Guo et al., ICML 2017, eq. 3)."""
    found: Sequence[CalibrationBin] = calibration_bins(probabilities, present, bins=bins)
    total = sum(item.count for item in found)
    return sum(item.count * abs(item.predicted - item.observed) for item in found) / total if total else math.nan


def _bin(values: NDArray[np.float64], positive: NDArray[np.float64]) -> CalibrationBin:
    return CalibrationBin(len(values), float(values.mean()), float(positive.mean()))
