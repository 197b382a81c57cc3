"""How sure a measure of several patients is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

__all__ = ["bootstrap_intervals"]

RESAMPLES = 2000
Record = TypeVar("Record")


def bootstrap_intervals(
    records: Mapping[str, Sequence[Record]],
    statistic: Callable[[Sequence[Record]], Mapping[str, float]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """Return 95 % percentile bootstrap intervals, resampling patients (Efron & Tibshirani 1993, ch. 13).

    Args:
        records: Patient to what is known of each study: a patient with ten studies is one draw.
        statistic: Records to named numbers; NaN where a resample has none, such as an AUC of one class.
        seed: Of the resampling.
        resamples: How many draws of all patients.

    Returns:
        Name to lower and upper end; equal with a single patient, NaN for what is NaN in every resample.
    """
    groups = [list(values) for values in records.values() if len(values)]
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        drawn = [record for index in rng.integers(len(groups), size=len(groups)) for record in groups[index]]
        for name, value in statistic(drawn).items():
            found.setdefault(name, []).append(value)
    return {name: _ends(np.asarray(values)) for name, values in found.items()}


def _ends(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    real = values[~np.isnan(values)]
    if not real.size:
        return float("nan"), float("nan")
    low, high = np.percentile(real, [2.5, 97.5], method="inverted_cdf")  # between finite and infinite lies no number
    return float(low), float(high)
