"""`check`: what a model's last predictions show against its reference. Loads no network: the gateway does it, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from medray import config
from medray.errors import NotFoundError
from medray.inference.baseline import read_reference
from medray.monitoring.alarm import Outlook, Watch, lately, looked
from medray.monitoring.drift import Finding
from medray.monitoring.features import FEATURES
from medray.monitoring.record import PredictionRecord, sample_of
from medray.monitoring.records import last_records
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion
from medray.storage.location import Location

__all__ = ["Check", "Studies", "check", "compared_with_reference", "counts", "studies"]


@dataclass(frozen=True, slots=True)
class Check:
    """What a model's last predictions show.

    Attributes:
        model: ``name/version``.
        studies: How many predictions were looked at.
        reference: How many they are compared with.
        outlook: What was found.
    """

    model: str
    studies: int
    reference: int
    outlook: Outlook

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        look = self.outlook
        return {
            "model": self.model,
            "alarm": look.alarm,
            "studies": self.studies,
            "reference": self.reference,
            "level": look.level,
            "whole": {str(size): _plain(found) for size, found in look.whole.items()},
            "groups": {name: _plain(found) for name, found in look.groups.items()},
        }


@dataclass(frozen=True, slots=True)
class Studies:
    """What drift of a version is told by.

    Attributes:
        version: Whose.
        reference: As it should be.
        last: Its last predictions, the oldest first.
    """

    version: ModelVersion
    reference: Sequence[PredictionRecord]
    last: Sequence[PredictionRecord]


def check(model: str, records: Location, watch: Watch, *, registry: Registry | None = None) -> Check:
    """Look at a model's last predictions.

    Args:
        model: A reference to the version.
        records: Where predictions are recorded.
        watch: How to look.
        registry: The default one when None.

    Raises:
        NotFoundError: If the version has no reference.
    """
    return compared_with_reference(studies(model, records, watch, registry=registry), watch)


def studies(model: str, records: Location, watch: Watch, *, registry: Registry | None = None) -> Studies:
    """Read what `check` looks at; raises what that does."""
    store = registry or Registry()
    version = store.resolve(model)
    reference = read_reference(version, store)
    if reference is None:
        raise NotFoundError(f"{version} has no reference to tell drift by: medray monitor baseline {version} --cohort ROOT")
    known = {one.id for one in reference}
    last = last_records(
        records,
        version.name,
        watch.window,
        lambda one: counts(one, version) and one.id not in known,
        since=_made_on(store.card(version)),
    )
    return Studies(version, reference, last)


def compared_with_reference(found: Studies, watch: Watch) -> Check:
    """Look at what `studies` has read."""
    window = lately(sample_of(found.last), watch.window)
    outlook = looked(sample_of(found.reference), window, watch)
    return Check(str(found.version), window.size, len(found.reference), outlook)


def _made_on(card: ModelCard) -> date:
    """Return the day on which a version was made: it said nothing before."""
    try:
        return datetime.fromisoformat(card.created).astimezone(UTC).date()
    except ValueError:  # a card that says less
        return date.min


def counts(record: PredictionRecord, version: ModelVersion) -> bool:
    """Tell whether a record is one of a version that tells of drift: an answer whose image there was time to look at."""
    answered = record.version == version.version and record.role != "shadow" and record.status == 200
    return answered and not FEATURES.keys().isdisjoint(record.numbers)


def _plain(found: Finding) -> dict[str, Any]:
    changes = [config.without_nan(one._asdict()) for one in found.changes]
    return {"p": found.p, "studies": found.window, "families": dict(found.families), "changes": changes}
