"""Whether a model is as good on images that got labels after it was made as on those that it was tested on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort, open_cohort
from medray.cohort.manifest import SeriesRow
from medray.cohort.suppression import standing
from medray.errors import InputError, NotFoundError
from medray.inference.evaluate import Evaluation, facts_of, held_out, require_labels, score_cases, seen_by
from medray.inference.predictor import Predictor
from medray.preprocessing.plan import learnable
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.tasks.answer import Record
from medray.tasks.task import Task, task_of

__all__ = ["Quality", "fresh_rows", "quality", "trained_on"]

SHUFFLES = 1999
FEWEST = 2
"""Patients on either side; with so few the p-value can't be small."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a model is now, and was.

    Attributes:
        model: ``name/version``.
        cohort: Whose new labels were looked at.
        measure: By which the task compares models.
        before: Target to score on the patients that the model was tested on.
        lately: The same on those whose labels are new.
        patients: How many were tested on, and how many are new.
        p: How rarely patients who are shuffled between both show a mean over targets that is so much lower.
        rate: Of false alarms.
    """

    model: str
    cohort: str
    measure: str
    before: Mapping[str, float]
    lately: Mapping[str, float]
    patients: tuple[int, int]
    p: float
    rate: float

    @property
    def alarm(self) -> bool:
        """Whether it is worse."""
        return self.p <= self.rate

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data, NaN as None."""
        plain: dict[str, Any] = config.without_nan({**asdict(self), "alarm": self.alarm})
        return plain


def quality(
    model: str,
    cohort: Cohort,
    *,
    rate: float = 0.01,
    registry: Registry | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Quality:
    """Score a version on images with new labels and on the test subjects of the cohort version that it was trained on.

    What it scores on the new ones is kept among its evaluations.

    Args:
        model: ``name``, ``name@alias`` or ``name/version``.
        cohort: A later version of that cohort.
        rate: Of false alarms.
        registry: The default one when None.
        on_progress: Called with ``("evaluate", done, total)``, for either side.

    Raises:
        InputError: If there are too few new labels, or nobody is left whom the model was tested on.
    """
    store = registry or Registry()
    version = store.resolve(model)
    card = store.card(version)
    plan = card.recipe()
    require_labels(str(version), plan, cohort)
    seen, usable = seen_by(card), {row.series for row in learnable(cohort.rows, plan.task, located=plan.located)}
    old = trained_on(card, cohort)
    fresh = [row for row in _newer(cohort, old) if row.series in usable and row.subject not in seen]
    without = seen | {row.subject for row in fresh}
    tested = [row for row in held_out(old, plan, "test") if row.subject not in without] if old else []
    patients = len({row.subject for row in tested}), len({row.subject for row in fresh})
    if old is None or min(patients) < FEWEST:
        raise InputError(
            f"{version} was tested on {patients[0]} patients of cohort {card.lineage.get('cohort') or 'unknown'}, and "
            f"{patients[1]} others have new labels: each side needs {FEWEST}"
        )
    open_trail().record([Event("model.quality", str(version), detail=f"{len(fresh)} series of {cohort.index.id}")])
    predictor, task = Predictor.load(store.fetch(version)), task_of(plan)
    before, lately = score_cases(predictor, old, tested, on_progress), score_cases(predictor, cohort, fresh, on_progress)
    store.beside(version).add_evaluation({**facts_of(lately), "cohort": cohort.index.id, "split": "new labels"})
    p = _probability(task, before, lately)
    return Quality(str(version), cohort.index.id, task.measure, before.scores, lately.scores, patients, p, rate)


def fresh_rows(card: ModelCard, cohort: Cohort) -> Sequence[SeriesRow]:
    """Return the labelled images that the cohort version which a model was trained on hasn't, or has with other labels."""
    return _newer(cohort, trained_on(card, cohort))


def trained_on(card: ModelCard, cohort: Cohort) -> Cohort | None:
    """Return the version of a cohort that a model was trained on, without who was erased; None where it was another cohort."""
    try:
        return open_cohort(cohort.root, version=standing(cohort.root, card.lineage.get("cohort", "")))
    except NotFoundError:
        return None


def _newer(cohort: Cohort, before: Cohort | None) -> list[SeriesRow]:
    known = {_key(row) for row in before.rows} if before else set[tuple[str, ...]]()
    return [row for row in cohort.rows if (row.label or row.findings) and _key(row) not in known]


def _key(row: SeriesRow) -> tuple[str, ...]:
    return (row.series, row.volume, row.label, *row.findings)


def _probability(task: Task, before: Evaluation, lately: Evaluation) -> float:
    """Return the p-value of a one-sided permutation test over patients (Good, Permutation Tests, 2000)."""
    patients: dict[str, list[Record]] = defaultdict(list)
    for case in (*before.cases, *lately.cases):
        patients[case.subject].append(case.record)
    records, new = list(patients.values()), len({case.subject for case in lately.cases})

    def loss(order: Sequence[int]) -> float:
        sides = order[: len(records) - new], order[len(records) - new :]
        first, second = (_mean(task, [record for at in side for record in records[at]]) for side in sides)
        return first - second

    found, rng = loss(range(len(records))), np.random.default_rng(0)
    if math.isnan(found):
        return 1.0
    drawn = [loss(rng.permutation(len(records)).tolist()) for _ in range(SHUFFLES)]
    return (1 + sum(value >= found - 1e-9 for value in drawn)) / (1 + SHUFFLES)


def _mean(task: Task, records: Sequence[Record]) -> float:
    values = [measures[task.measure] for measures in task.summarise(records).values()]
    real = [value for value in values if not math.isnan(value)]
    return sum(real) / len(real) if real else math.nan
