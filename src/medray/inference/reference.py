"""What drift of a model is told by: images that are as they should be, and what it says of them, kept beside the version."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from medray.cohort.cohort import Cohort
from medray.cohort.suppression import read_suppressed as read_erased
from medray.errors import InputError
from medray.inference.baseline import keep_reference
from medray.inference.bundled import load_predictor
from medray.inference.check import counts
from medray.inference.recorded import of_row, recorded
from medray.models.runtime import EXACT
from medray.monitoring.record import PredictionRecord
from medray.monitoring.records import read_records
from medray.monitoring.suppression import read_suppressed
from medray.preprocessing.plan import learnable
from medray.registry.registry import Registry
from medray.storage.location import Location

__all__ = ["keep_baseline", "keep_past", "reference_from_cohort", "reference_from_records"]

ENOUGH = 50
"""Studies that weren't trained on; where there are fewer, those that were are in the reference, too."""
MOST = 1000
"""Studies of a reference: more make no test sharper."""


def reference_from_cohort(
    model: str,
    cohort: Cohort,
    *,
    registry: Registry | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[PredictionRecord]:
    """Look at a cohort's images and at what a model says of them, as serving would.

    Those that the model was trained on are left out if there are enough others: what it says of them is surer than it will be.

    Raises:
        InputError: If the cohort has no image for the model.
    """
    store = registry or Registry()
    version = store.resolve(model)
    card = store.card(version)
    rows = list(cohort.rows) if card.plan is None else learnable(cohort.rows, card.plan.task, located=card.plan.located)
    trained = set(card.subjects.get("train", ()))
    fresh = [row for row in rows if row.subject not in trained]
    chosen = (fresh if len(fresh) >= ENOUGH else rows)[:MOST]
    if not chosen:
        raise InputError(f"cohort {cohort.index.id} has no image that {version} is for")
    predictor, found = load_predictor(store.fetch(version)), []
    for done, row in enumerate(chosen, start=1):
        volume = cohort.volume(row)
        found.append(recorded(version, predictor, predictor.predict(volume), volume, (), EXACT, **of_row(row)))
        on_progress("reference", done, len(chosen))
    return found


def reference_from_records(
    model: str, records: Location, since: datetime, until: datetime, *, registry: Registry | None = None
) -> list[PredictionRecord]:
    """Take predictions of a time in which all was well, which a person has looked at.

    Raises:
        InputError: If there are too few.
    """
    version = (registry or Registry()).resolve(model)
    found = [one for one in read_records(records, version.name, since=since, until=until) if counts(one, version)]
    if len(found) < ENOUGH:
        raise InputError(f"{version} made {len(found)} predictions in that time, and a reference needs {ENOUGH}")
    return found[-MOST:]


def keep_baseline(
    model: str,
    cohort: Cohort,
    *,
    why: str = "",
    registry: Registry | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> int:
    """Keep what `reference_from_cohort` sees beside a version, and return how many studies that is."""
    found = reference_from_cohort(model, cohort, registry=registry, on_progress=on_progress)

    def left() -> list[PredictionRecord]:
        gone = read_erased(cohort.root).keys()
        return [record for record in found if record.subject not in gone]

    return _keep(model, left, why or f"cohort {cohort.index.id}", registry)


def keep_past(
    model: str, records: Location, since: datetime, until: datetime, *, why: str = "", registry: Registry | None = None
) -> int:
    """Keep what `reference_from_records` finds beside a version, and return how many studies that is."""
    found = reference_from_records(model, records, since, until, registry=registry)

    def left() -> list[PredictionRecord]:
        gone = read_suppressed(records)
        return [record for record in found if not any(one.covers(record) for one in gone)]

    return _keep(model, left, why or f"{since.date()} to {until.date()}", registry)


def _keep(model: str, left: Callable[[], list[PredictionRecord]], why: str, registry: Registry | None) -> int:
    """Keep a reference without who was erased, also while it was written: whoever erases somebody later sees it."""
    while True:
        found = left()
        keep_reference(model, found, why=why, registry=registry)
        if len(left()) == len(found):
            return len(found)
