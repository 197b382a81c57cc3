"""Two versions of a model on the same images: how much better one is, how sure that is, and whether it may go in its place.

Both are scored on each image, so that what makes an image hard for both says nothing; patients are resampled, not images.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass as strict_dataclass

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort
from medray.errors import ConflictError, InputError
from medray.evaluation.interval import bootstrap_intervals
from medray.inference.evaluate import CaseScore, Evaluation, require_labels, score_cases, seen_by, unseen
from medray.inference.predictor import Predictor
from medray.registry.registry import Registry
from medray.tasks.answer import Record
from medray.tasks.task import Task, task_of

__all__ = ["MEAN", "Comparison", "Difference", "Rule", "compare", "judged", "promote_if_better"]

MEAN = "mean"
"""Beside the targets: the mean over them."""


class Difference(NamedTuple):
    """How much higher the challenger scores than the champion.

    Attributes:
        value: By the task's measure.
        low: Lower end of its 95 % interval, by paired bootstrap over patients.
        high: Upper end.
        patients: Of whom.
    """

    value: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions on the same images.

    Attributes:
        challenger: ``name/version``.
        champion: ``name/version``.
        cohort: Its id.
        measure: By which they are compared.
        overall: Target, or `MEAN`, to difference.
        groups: Kind of group to group to the mean over targets.
    """

    challenger: str
    champion: str
    cohort: str
    measure: str
    overall: Mapping[str, Difference]
    groups: Mapping[str, Mapping[str, Difference]]

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data, NaN as None."""
        facts = {"challenger": self.challenger, "champion": self.champion, "cohort": self.cohort, "measure": self.measure}
        groups = {kind: _told(found) for kind, found in self.groups.items()}
        plain: dict[str, Any] = config.without_nan({**facts, "overall": _told(self.overall), "groups": groups})
        return plain


def _told(found: Mapping[str, Difference]) -> dict[str, dict[str, float]]:
    return {name: one._asdict() for name, one in found.items()}


@strict_dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Rule:
    """What a challenger must show before it may replace the champion.

    Attributes:
        gain: Its mean over targets must be higher by more than this, by the lower end of the 95 % interval.
        target_loss: By how much any one target may be worse.
        group_loss: By how much any subgroup of patients may be worse.
        patients: How many there must be at least.
        group_patients: Of a subgroup, for it to be looked at.
    """

    gain: float = Field(default=0.0, ge=-1, le=1)
    target_loss: float = Field(default=0.02, ge=0)
    group_loss: float = Field(default=0.02, ge=0)
    patients: int = Field(default=5, ge=1)
    group_patients: int = Field(default=1, ge=1)


def compare(
    challenger: str,
    champion: str,
    cohort: Cohort,
    *,
    registry: Registry | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Comparison:
    """Score two versions on the same test subjects: those that neither was trained or chosen on.

    Args:
        challenger: A reference to the newer one.
        champion: A reference to the one in use.
        cohort: With what the task is learned from.
        registry: The default one when None.
        on_progress: Called with the stage, how many are done, and of how many.

    Raises:
        InputError: If they are for different things, or no labelled subject is left.
    """
    store = registry or Registry()
    versions = [store.resolve(reference) for reference in (challenger, champion)]
    plans = [store.card(version).recipe() for version in versions]
    if (plans[0].task, plans[0].targets) != (plans[1].task, plans[1].targets):
        raise InputError(f"{versions[0]} and {versions[1]} tell different things apart: they can't be compared")
    require_labels(str(versions[0]), plans[0], cohort)
    seen = set[str]().union(*(seen_by(store.card(version)) for version in versions))
    rows = unseen(cohort, plans[1], seen)
    open_trail().record([Event("model.compare", str(versions[0]), detail=f"with {versions[1]} on {cohort.index.id}")])
    found = [score_cases(Predictor.load(store.fetch(version)), cohort, rows, on_progress) for version in versions]
    overall, groups = _differences(task_of(plans[1]), found[0], found[1])
    names = (str(versions[0]), str(versions[1]))
    return Comparison(*names, cohort.index.id, found[0].measure, overall, groups)


def judged(comparison: Comparison, rule: Rule) -> list[str]:
    """Return why the challenger may not replace the champion, a line each; empty where it may."""
    mean, reasons = comparison.overall[MEAN], []
    if mean.patients < rule.patients:
        reasons.append(f"it was compared on {mean.patients} patients, and the rule asks for {rule.patients}")
    if not mean.low > rule.gain:
        reasons.append(
            f"{comparison.measure} differs by {mean.value:+.3f} with a 95 % interval from {mean.low:+.3f} to {mean.high:+.3f}, "
            f"which is not all above {rule.gain:g}"
        )
    reasons += [
        f"{name} is worse by {-one.value:.3f}, and {rule.target_loss:g} is allowed"
        for name, one in comparison.overall.items()
        if name != MEAN and one.value < -rule.target_loss
    ]
    reasons += [
        f"{kind} {group} ({one.patients} patients) is worse by {-one.value:.3f}, and {rule.group_loss:g} is allowed"
        for kind, found in comparison.groups.items()
        for group, one in found.items()
        if one.patients >= rule.group_patients and one.value < -rule.group_loss
    ]
    return reasons


def promote_if_better(
    comparison: Comparison, rule: Rule, *, why: str = "", actor: str = "", registry: Registry | None = None
) -> None:
    """Make the challenger champion where the rule lets it.

    Raises:
        ConflictError: With the reasons, if it doesn't; the audit trail keeps that, too.
    """
    reasons = judged(comparison, rule)
    if reasons:
        refused = Event("model.promote", comparison.challenger, "refused", "; ".join(reasons), actor)
        open_trail().record([refused])
        raise ConflictError(f"{comparison.challenger} stays what it is: {'; '.join(reasons)}")
    mean = comparison.overall[MEAN]
    shown = f"{comparison.measure} {mean.value:+.3f} ({mean.low:+.3f} to {mean.high:+.3f}) on cohort {comparison.cohort}"
    (registry or Registry()).promote(comparison.challenger, why=f"{why}; {shown}" if why else shown, actor=actor)


Pair = tuple[Record, Record]


def _differences(
    task: Task, challenger: Evaluation, champion: Evaluation
) -> tuple[dict[str, Difference], dict[str, dict[str, Difference]]]:
    """Return target to difference, and kind of group to group to the mean difference."""
    pairs = list(zip(challenger.cases, champion.cases, strict=True))
    groups = {
        kind: {
            group: _difference(task, [pair for pair in pairs if pair[0].groups.get(kind) == group])[MEAN]
            for group in sorted(found)
        }
        for kind, found in challenger.groups.items()
    }
    return _difference(task, pairs), groups


def _difference(task: Task, pairs: Sequence[tuple[CaseScore, CaseScore]]) -> dict[str, Difference]:
    patients: dict[str, list[Pair]] = defaultdict(list)
    for one, other in pairs:
        patients[one.subject].append((one.record, other.record))

    def statistic(records: Sequence[Pair]) -> dict[str, float]:
        new, old = (task.summarise([pair[side] for pair in records]) for side in (0, 1))
        found = {name: measures[task.measure] - old[name][task.measure] for name, measures in new.items()}
        real = [value for value in found.values() if not math.isnan(value)]
        return {**found, MEAN: sum(real) / len(real) if real else math.nan}

    values = statistic([pair for found in patients.values() for pair in found])
    ends = bootstrap_intervals(patients, statistic)
    return {name: Difference(value, *ends[name], len(patients)) for name, value in values.items()}
