"""`evaluate`: a registered model on a cohort's held-out subjects, on the source grids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort
from medray.cohort.manifest import SeriesRow
from medray.cohort.splits import Split, split_subjects
from medray.errors import InputError
from medray.evaluation.interval import bootstrap_interval
from medray.inference.predictor import Predictor
from medray.preprocessing.plan import Plan
from medray.registry.registry import Registry
from medray.tasks.task import task_of

__all__ = ["Evaluation", "evaluate", "score_cases"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a model on cases.

    Attributes:
        cases: Series to label to score; NaN where a label is in neither mask.
        means: Label to mean over the cases that have it.
        intervals: Label to its 95 % bootstrap interval by patient.
    """

    cases: Mapping[str, Mapping[str, float]]
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data, NaN as None."""
        cases = {name: {label: _number(score) for label, score in scores.items()} for name, scores in self.cases.items()}
        return {"cases": cases, "means": dict(self.means), "intervals": {k: list(v) for k, v in self.intervals.items()}}


def evaluate(
    model: str,
    cohort: Cohort,
    *,
    split: Split = "test",
    registry: Registry | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Evaluation:
    """Score a registered model.

    Args:
        model: ``name``, ``name@alias`` or ``name/version``.
        cohort: With label maps.
        split: Which subjects; those that the model was trained or chosen on never count as test.
        registry: The default one when None.
        on_progress: Called with ``("evaluate", done, total)``.

    Raises:
        NotFoundError: If there is no such model.
        InputError: If no labelled subject is left to score, or labels mean something else.
    """
    store = registry or Registry()
    card = store.card(model)
    if cohort.index.labels != card.plan.labels:
        raise InputError(f"{model} knows labels {dict(card.plan.labels.names)}; cohort {cohort.index.id} has others")
    rows = held_out(cohort, card.plan, split)
    if split == "test":
        seen = {*card.subjects.get("train", ()), *card.subjects.get("val", ())}
        rows = [row for row in rows if row.subject not in seen]
    open_trail().record([Event("cohort.evaluate", cohort.index.id, detail=f"{len(rows)} series by {card.name}")])
    return score_cases(Predictor.load(store.fetch(model)), cohort, rows, on_progress)


def held_out(cohort: Cohort, plan: Plan, split: Split) -> list[SeriesRow]:
    """Return the labelled series of a plan's split."""
    rows = [row for row in cohort.rows if row.label]
    splits = split_subjects((row.subject for row in rows), val=plan.val, test=plan.test)
    return [row for row in rows if splits[row.subject] == split]


def score_cases(
    predictor: Predictor,
    cohort: Cohort,
    rows: Sequence[SeriesRow],
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Evaluation:
    """Predict each series and score it against its label map.

    Raises:
        InputError: If there are no rows.
    """
    if not rows:
        raise InputError(f"cohort {cohort.index.id} has no labelled subject left to score: none is held out")
    task, cases = task_of(predictor.plan), {}
    for done, row in enumerate(rows, start=1):
        predicted = predictor.predict(cohort.volume(row)).mask.voxels[0]
        cases[row.series] = dict(task.score(predicted, cohort.mask(row)))
        on_progress("evaluate", done, len(rows))
    by_label: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for label, score in cases[row.series].items():
            if not np.isnan(score):
                by_label[label][row.subject].append(score)
    return Evaluation(
        cases=cases,
        means={label: float(np.mean([s for scores in found.values() for s in scores])) for label, found in by_label.items()},
        intervals={label: bootstrap_interval(found) for label, found in by_label.items()},
    )


def _number(score: float) -> float | None:
    return None if np.isnan(score) else score
