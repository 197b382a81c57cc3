"""How sure a mean is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["bootstrap_interval"]

RESAMPLES = 2000


def bootstrap_interval(scores: Mapping[str, Sequence[float]], *, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % percentile bootstrap interval of the mean, resampling patients (Efron & Tibshirani 1993, ch. 13).

    Args:
        scores: Patient to that patient's scores: a patient with ten studies counts as one draw.
        seed: Of the resampling.

    Returns:
        Lower and upper end; equal with a single patient.
    """
    groups = [np.asarray(values, dtype=np.float64) for values in scores.values() if len(values)]
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = [groups[index] for index in rng.integers(len(groups), size=len(groups))]
        means.append(np.concatenate(drawn).mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
