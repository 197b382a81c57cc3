"""What validation showed of a model's answers: what its probabilities mean, and which pieces are too small to be true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medray.config import STRICT

__all__ = ["CALIBRATION", "Calibration", "Calibrations", "calibrated", "fit_platt"]

CALIBRATION = "calibration.json"
"""The file of a model folder with each target's calibration."""

SURE = 1e-7
SLOPES = (-5.0, 5.0)
"""Of the slope's logarithm: a fit on few cases goes no further."""
STRENGTH = 0.05
"""Of the pull towards the network's own probabilities: what a twentieth of a case would say."""


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """How a target's answers are taken. Called with a probability, it returns what that means.

    Attributes:
        slope: Of a logistic curve over log-odds, which rises, so that no two cases change places: below 1 where the network
            was too sure.
        offset: Of the same: below 0 where it said yes too often.
        smallest_ml: Of a segmentation: smaller pieces are left out.
    """

    slope: float = Field(default=1.0, gt=0)
    offset: float = 0.0
    smallest_ml: float = Field(default=0.0, ge=0)

    def __call__(self, probability: float) -> float:
        """Return what a probability means."""
        return float(1 / (1 + np.exp(-(self.slope * _log_odds(np.array([probability]))[0] + self.offset))))


Calibrations: TypeAlias = Mapping[str, Calibration]
"""Target to calibration; a target that isn't there is taken as it is."""


def fit_platt(probabilities: ArrayLike, present: ArrayLike) -> Calibration:
    """Fit a curve on cases that weren't trained on (Platt, Advances in Large Margin Classifiers (2000) 61-74).

    With his smoothed targets and a weak pull towards the network's own probabilities, so that few cases don't say too much.

    Args:
        probabilities: ``(N,)``.
        present: ``(N,)``, whether each case has the finding.

    Returns:
        The network's own probabilities unless both kinds of case are there.
    """
    odds, positive = _log_odds(np.asarray(probabilities, np.float64)), np.asarray(present, bool)
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return Calibration()
    targets = np.where(positive, (count + 1) / (count + 2), 1 / (others + 2))

    def cost(curve: NDArray[np.float64]) -> float:
        values = np.exp(curve[0]) * odds + curve[1]
        wrong = np.logaddexp(0, values) - targets * values
        return float(wrong.sum() + STRENGTH * np.square(curve).sum())

    from scipy.optimize import minimize  # noqa: PLC0415 - a quarter of a second that only a fit of a diagnosis needs

    found = minimize(cost, np.zeros(2), method="L-BFGS-B", bounds=[SLOPES, (-20.0, 20.0)])
    return Calibration(slope=float(np.exp(found.x[0])), offset=float(found.x[1]))


def calibrated(probabilities: Mapping[str, float], curves: Calibrations, *, exclusive: bool) -> dict[str, float]:
    """Return probabilities by their curves; of exclusive findings they are one together (Zadrozny & Elkan, KDD 2002)."""
    found = {name: curves[name](value) if name in curves else value for name, value in probabilities.items()}
    total = sum(found.values()) if exclusive else 1.0
    return {name: value / total for name, value in found.items()}


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(probabilities, SURE, 1 - SURE)
    odds: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return odds
