"""When a model is to be renewed."""

from __future__ import annotations

from dataclasses import field
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.cohort.cohort import Cohort
from medray.errors import InputError, NotFoundError
from medray.inference.check import check
from medray.inference.compare import Rule
from medray.inference.quality import fresh_rows, quality
from medray.monitoring.alarm import Watch
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion
from medray.storage.location import Location

__all__ = ["RenewalRule", "occasions"]


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class RenewalRule:
    """When a model is renewed, and what its successor must show.

    Attributes:
        drift: Whether a drift alarm is an occasion.
        quality: Whether it is one that the champion is worse on images with new labels than on those that it was tested on. It
            is scored on both each time.
        labels: So many images with new labels are one; 0 for never.
        days: So many days since the champion was made are one; 0 for never.
        project: Of annotation, whose labels are taken in first; none where it is empty.
        which: Of the project's labels: what reviewers approved, or what the experts agree on.
        forgotten: By how much the successor may be worse, by the mean over targets, on the test subjects of the cohort that the
            champion was trained on.
        promote: Whether the successor becomes champion where ``better`` lets it; else a person decides.
        better: What it must show on the new cohort's test subjects.
        watch: How drift is looked at.
    """

    drift: bool = True
    quality: bool = False
    labels: int = Field(default=0, ge=0)
    days: float = Field(default=0, ge=0)
    project: str = ""
    which: Literal["consensus", "approved"] = "approved"
    forgotten: float = Field(default=0.01, ge=0)
    promote: bool = False
    better: Rule = field(default_factory=Rule)
    watch: Watch = field(default_factory=Watch)


def occasions(
    rule: RenewalRule, version: ModelVersion, card: ModelCard, cohort: Cohort, records: Location, registry: Registry
) -> list[str]:
    """Return why a model is to be renewed now, a line each; empty where nothing asks for it.

    Args:
        rule: What is an occasion.
        version: The champion.
        card: Its card.
        cohort: The current version of what it is to learn from.
        records: Of its predictions.
        registry: Where it is.
    """
    found = []
    fresh = len(fresh_rows(card, cohort))
    if rule.labels and fresh >= rule.labels:
        found.append(f"{fresh} images have new labels, and {rule.labels} are enough")
    age = (datetime.now(UTC) - datetime.fromisoformat(card.created).astimezone(UTC)).total_seconds() / 86_400
    if rule.days and age >= rule.days:
        found.append(f"{version} is {age:.0f} days old, and is renewed after {rule.days:g}")
    if rule.drift:
        found += _drift(rule, version, records, registry)
    if rule.quality:
        found += _quality(rule, version, cohort, registry)
    return found


def _drift(rule: RenewalRule, version: ModelVersion, records: Location, registry: Registry) -> list[str]:
    try:
        found = check(str(version), records, rule.watch, registry=registry)
    except NotFoundError:  # it has no reference: nothing is known of drift
        return []
    worst = found.outlook.worst
    if not found.outlook.alarm or worst is None:
        return []
    names = ", ".join(change.name for change in worst.changes[:3])
    return [f"studies are of another kind than {version}'s reference (p {worst.p:.2g}): {names}"]


def _quality(rule: RenewalRule, version: ModelVersion, cohort: Cohort, registry: Registry) -> list[str]:
    try:
        found = quality(str(version), cohort, rate=rule.watch.rate, registry=registry)
    except InputError:  # there are too few new labels
        return []
    if not found.alarm:
        return []
    lost = ", ".join(
        f"{name} {found.before[name]:.3f} to {value:.3f}" for name, value in found.lately.items() if name in found.before
    )
    return [f"{version} is worse on {found.patients[1]} patients with new labels (p {found.p:.2g}): {found.measure} of {lost}"]
