"""`evaluate`: a registered model on a cohort's held-out subjects, on the source grids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort
from medray.cohort.manifest import SeriesRow
from medray.cohort.splits import Split, split_subjects
from medray.errors import InputError
from medray.evaluation.interval import bootstrap_intervals
from medray.imaging.volume import Volume
from medray.inference.groups import groups_of
from medray.inference.predictor import Predictor
from medray.preprocessing.plan import Plan, learnable
from medray.registry.about import code_revision, environment
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.tasks.answer import Record, Summary, Truth
from medray.tasks.task import Task, task_of

__all__ = [
    "CaseScore",
    "Evaluation",
    "Scores",
    "evaluate",
    "facts_of",
    "held_out",
    "require_labels",
    "score_cases",
    "seen_by",
    "truth_of",
    "unseen",
]


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One image.

    Attributes:
        series: Its pseudonym.
        subject: The patient's.
        groups: Kind of group to group: see `medray.inference.groups.groups_of`.
        record: What was measured; NaN where a target is in neither mask.
    """

    series: str
    subject: str
    groups: Mapping[str, str]
    record: Record


@dataclass(frozen=True, slots=True)
class Scores:
    """What several images are together.

    Attributes:
        cases: How many images.
        summary: Target to measure to number, over the images that have it.
        intervals: Target to measure to its 95 % bootstrap interval by patient.
    """

    cases: int
    summary: Summary
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is.

    Attributes:
        measure: By which the task compares models.
        cases: Each image.
        overall: All of them.
        groups: Kind of group to group to its images; kinds of which the cohort has one group only are left out.
    """

    measure: str
    cases: Sequence[CaseScore]
    overall: Scores
    groups: Mapping[str, Mapping[str, Scores]]

    @property
    def scores(self) -> dict[str, float]:
        """Target to number, by the task's measure; targets that have none are left out."""
        found = {name: measures[self.measure] for name, measures in self.overall.summary.items()}
        return {name: value for name, value in found.items() if not np.isnan(value)}

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data, NaN and infinity as None."""
        plain: dict[str, Any] = config.without_nan(asdict(self))
        return plain


def evaluate(
    model: str,
    cohort: Cohort,
    *,
    split: Split = "test",
    registry: Registry | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Evaluation:
    """Score a registered model, and keep the scores beside it (`Registry.evaluations`).

    Args:
        model: ``name``, ``name@alias`` or ``name/version``.
        cohort: With what the task is learned from: label maps or findings.
        split: Which subjects; those that the model was trained or chosen on never count as test. In a cohort that has none of
            these, as another hospital's, all are test.
        registry: The default one when None.
        on_progress: Called with ``("evaluate", done, total)``.

    Raises:
        NotFoundError: If there is no such model.
        InputError: If no labelled subject is left to score, or labels mean something else.
    """
    store = registry or Registry()
    version = store.resolve(model)
    card = store.card(version)
    plan = card.recipe()
    require_labels(model, plan, cohort)
    rows = unseen(cohort, plan, seen_by(card)) if split == "test" else held_out(cohort, plan, split)
    open_trail().record([Event("cohort.evaluate", cohort.index.id, detail=f"{len(rows)} series by {version}")])
    found = score_cases(Predictor.load(store.fetch(version)), cohort, rows, on_progress)
    store.beside(version).add_evaluation({**facts_of(found), "cohort": cohort.index.id, "split": split})
    return found


def require_labels(model: str, plan: Plan, cohort: Cohort) -> None:
    """Check that a cohort's labels mean what a model's do.

    Raises:
        InputError: If they don't.
    """
    if plan.maps and cohort.index.labels != plan.labels:
        raise InputError(f"{model} knows labels {dict(plan.labels.names)}; cohort {cohort.index.id} has others")


def seen_by(card: ModelCard) -> set[str]:
    """Return the subjects that a model was trained or chosen on."""
    return {*card.subjects.get("train", ()), *card.subjects.get("val", ())}


def facts_of(found: Evaluation) -> dict[str, Any]:
    """Return what is kept of an evaluation beside the model: nothing of single images."""
    plain = found.plain()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    patients = len({case.subject for case in found.cases})
    by = {"revision": code_revision(), "environment": environment()}
    return {name: plain[name] for name in ("measure", "overall", "groups")} | {"patients": patients, "at": at, **by}


def held_out(cohort: Cohort, plan: Plan, split: Split) -> list[SeriesRow]:
    """Return the series of a plan's split that its task could learn from."""
    rows = learnable(cohort.rows, plan.task, located=plan.located)
    splits = split_subjects((row.subject for row in rows), val=plan.val, test=plan.test)
    return [row for row in rows if splits[row.subject] == split]


def unseen(cohort: Cohort, plan: Plan, seen: AbstractSet[str]) -> list[SeriesRow]:
    """Return the series to test on: of the plan's test split or, where none of ``seen`` is in the cohort, of all subjects."""
    foreign = seen.isdisjoint(row.subject for row in cohort.rows)
    rows = learnable(cohort.rows, plan.task, located=plan.located) if foreign else held_out(cohort, plan, "test")
    return [row for row in rows if row.subject not in seen]


def score_cases(
    predictor: Predictor,
    cohort: Cohort,
    rows: Sequence[SeriesRow],
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Evaluation:
    """Predict each series and score it against what is known of it.

    Raises:
        InputError: If there are no rows.
    """
    if not rows:
        raise InputError(f"cohort {cohort.index.id} has no labelled subject left to score: none is held out")
    task, cases = task_of(predictor.plan), []
    for done, row in enumerate(rows, start=1):
        volume = cohort.volume(row)
        record = task.compare(predictor.predict(volume).answer, truth_of(predictor.plan, cohort, row, volume))
        cases.append(CaseScore(row.series, row.subject, groups_of(volume), record))
        on_progress("evaluate", done, len(rows))
    members: dict[str, dict[str, list[CaseScore]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        for kind, group in case.groups.items():
            members[kind][group].append(case)
    groups = {
        kind: {group: _scores(task, found) for group, found in sorted(by_group.items())}
        for kind, by_group in members.items()
        if len(by_group) > 1
    }
    return Evaluation(measure=task.measure, cases=cases, overall=_scores(task, cases), groups=groups)


def truth_of(plan: Plan, cohort: Cohort, row: SeriesRow, volume: Volume) -> Truth:
    """Return what is known of a series, on its source grid."""
    return Truth(cohort.mask(row) if plan.maps else None, volume.spacing_mm, row.present)


def _scores(task: Task, cases: Sequence[CaseScore]) -> Scores:
    patients: dict[str, list[Record]] = defaultdict(list)
    for case in cases:
        patients[case.subject].append(case.record)
    summary = task.summarise([case.record for case in cases])
    ends = bootstrap_intervals(patients, lambda records: _flat(task.summarise(records)))
    intervals = {name: {measure: ends[f"{name} {measure}"] for measure in found} for name, found in summary.items()}
    return Scores(len(cases), summary, intervals)


def _flat(summary: Summary) -> dict[str, float]:
    return {f"{name} {measure}": value for name, measures in summary.items() for measure, value in measures.items()}
