"""`measure_gain`: what synthetic images are worth: fits with and without them, seed by seed, on real held-out subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from medray import config
from medray.cohort.cohort import Cohort
from medray.errors import ConfigError, InputError
from medray.inference.evaluate import held_out, score_cases
from medray.inference.predictor import Predictor
from medray.preprocessing.prepared import Prepared
from medray.training.config import FitConfig
from medray.training.run import fetched
from medray.training.trainer import fit

__all__ = ["Gain", "measure_gain"]

OnFit = Callable[[str, int, Mapping[str, float]], None]
SIDES = ("without", "with")


@dataclass(frozen=True, slots=True)
class Gain:
    """What synthetic images changed on the test subjects.

    Attributes:
        measure: Of the task.
        seeds: Of the fits.
        without: Target to its score for each seed, real images alone.
        with_synthetic: The same with synthetic images beside them, in as many steps.
        gain: Target to the mean of the differences; below zero where they did harm.
        intervals: Target to their 95 % interval, by Student's t over seeds.
    """

    measure: str
    seeds: tuple[int, ...]
    without: Mapping[str, Sequence[float]]
    with_synthetic: Mapping[str, Sequence[float]]
    gain: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)


def measure_gain(
    without: Prepared,
    with_synthetic: Prepared,
    cohort: Cohort,
    fit_config: FitConfig | None = None,
    *,
    seeds: int = 5,
    runs: str | Path | None = None,
    on_fit: OnFit = lambda side, seed, scores: None,
) -> Gain:
    """Fit with and without synthetic images at each seed, and compare on the cohort's test subjects.

    Killed, it goes on when it is called again: finished fits are kept.

    Args:
        without: The cohort, prepared.
        with_synthetic: The same with a synthetic cohort.
        cohort: That both were prepared from.
        fit_config: Of each fit; its seed is the first one.
        seeds: How many; two at least.
        runs: Where the fits lie; ``MEDRAY_HOME/runs`` by default.
        on_fit: Called with side, seed and test scores after each fit.

    Raises:
        ConfigError: If there are fewer than two seeds.
        InputError: If the two differ in more than their synthetic cases.
    """
    chosen = fit_config or FitConfig()
    if seeds < 2:
        raise ConfigError(f"seeds={seeds}: an interval needs two at least")
    if without.plan != with_synthetic.plan or {row.file for row in without.cases} != {
        row.file for row in with_synthetic.cases if not row.synthetic
    }:
        raise InputError(f"{with_synthetic.root.path} must be {without.root.path} with synthetic cases, and nothing else")
    place = config.home() / "runs" if runs is None else runs
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    measure = ""
    numbers = tuple(range(chosen.seed, chosen.seed + seeds))
    for seed in numbers:
        for side, prepared in zip(SIDES, (without, with_synthetic), strict=True):
            run = fit(prepared, replace(chosen, seed=seed), name=f"gain-{side}-{seed}", runs=place)
            with fetched(run.model) as folder:
                scored = score_cases(Predictor.load(folder), cohort, held_out(cohort, prepared.plan, "test"))
            measure = scored.measure
            found[side].append(scored.scores)
            on_fit(side, seed, scored.scores)
    return _compared(measure, numbers, *found.values())


def _compared(
    measure: str, seeds: tuple[int, ...], without: Sequence[Mapping[str, float]], with_synthetic: Sequence[Mapping[str, float]]
) -> Gain:
    names = sorted(set[str]().union(*without, *with_synthetic))
    sides = [{name: [scores.get(name, 0.0) for scores in side] for name in names} for side in (without, with_synthetic)]
    apart = {name: np.subtract(sides[1][name], sides[0][name]) for name in names}
    return Gain(
        measure=measure,
        seeds=seeds,
        without=sides[0],
        with_synthetic=sides[1],
        gain={name: float(values.mean()) for name, values in apart.items()},
        intervals={name: _interval(values) for name, values in apart.items()},
    )


def _interval(differences: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    error = float(stats.sem(differences))
    if error == 0:
        return float(differences.mean()), float(differences.mean())
    low, high = stats.t.interval(0.95, len(differences) - 1, loc=differences.mean(), scale=error)
    return float(low), float(high)
