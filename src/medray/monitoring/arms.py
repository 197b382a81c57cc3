"""Versions of a model side by side, by what their predictions left: the table of an A/B test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from medray.monitoring.record import PredictionRecord, Role

__all__ = ["OWN", "Arm", "arms_of"]

OWN = ("decode", "preprocess", "network", "postprocess")
"""Stages whose time is a version's own: not waiting, and not how the answer is written."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One version in one role.

    Attributes:
        version: Its number.
        role: Why it was asked.
        predictions: How many, refusals of images left out.
        failed: How many of them gave no answer by the endpoint's fault.
        p50_ms: Median time of its own stages.
        p95_ms: Their 95th percentile.
        confidence: Mean.
        agreement: Target to the mean agreement with the version whose images it saw, too; of copies alone.
        medians: Volume or probability to its median.
    """

    version: int
    role: Role
    predictions: int
    failed: int
    p50_ms: float
    p95_ms: float
    confidence: float
    agreement: Mapping[str, float]
    medians: Mapping[str, float]


def arms_of(records: Iterable[PredictionRecord]) -> list[Arm]:
    """Return a model's versions, in order, each once for each role that it had."""
    arms: dict[tuple[int, Role], list[PredictionRecord]] = defaultdict(list)
    for record in records:
        if not 400 <= record.status < 500:
            arms[record.version, record.role].append(record)
    return [_arm(version, role, found) for (version, role), found in sorted(arms.items())]


def _arm(version: int, role: Role, records: list[PredictionRecord]) -> Arm:
    answered = [record for record in records if record.status == 200]
    times = [sum(record.latencies.get(stage, 0.0) for stage in OWN) for record in answered] or [float("nan")]
    return Arm(
        version,
        role,
        len(records),
        len(records) - len(answered),
        float(np.percentile(times, 50)),
        float(np.percentile(times, 95)),
        _mean([record.numbers["confidence"] for record in answered if "confidence" in record.numbers]),
        {name: _mean(values) for name, values in _by_name(record.agreement for record in answered).items()},
        {
            name: float(np.median(values))
            for name, values in _by_name(record.numbers for record in answered).items()
            if name.startswith(("volume ", "probability "))
        },
    )


def _by_name(found: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = defaultdict(list)
    for one in found:
        for name, value in one.items():
            values[name].append(value)
    return dict(sorted(values.items()))


def _mean(values: list[float]) -> float:
    real = [value for value in values if np.isfinite(value)]
    return float(np.mean(real)) if real else float("nan")
