"""`erase_subject`: one patient out of all that medray keeps: cohorts, labels, records; and which models saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medray.annotation.store import LabelStore
from medray.audit import Event, open_trail
from medray.cohort.cohort import open_cohort
from medray.cohort.erase import Erasure, erase_from_cohort
from medray.errors import NotFoundError
from medray.monitoring.records import erase_subject as erase_records
from medray.registry.registry import Registry
from medray.storage.location import Location

__all__ = ["Erased", "erase_subject"]


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of a patient's data.

    Attributes:
        cohorts: Path of a cohort to what was taken out of it.
        labels: Label maps of annotators that are gone.
        records: Predictions whose records are gone.
        models: Version to how the patient had a part in it: ``train``, ``val`` or ``test``, or which version with such a part
            it began with. Weights keep what they learned: retrain or delete those that were trained on the patient, as the law
            or the consent asks.
    """

    cohorts: dict[str, Erasure]
    labels: int
    records: int
    models: dict[str, str]


def erase_subject(
    subject: str,
    cohorts: Sequence[Location],
    records: Location,
    *,
    also: Sequence[str] = (),
    why: str = "",
    registry: Registry | None = None,
) -> Erased:
    """Erase a patient, by pseudonym (GDPR Article 17).

    Prepared folders, exports and backups are copies that medray doesn't know of: make them anew from the current version.

    Args:
        subject: The pseudonym, by ``medray cohort reidentify`` where only the identifier is known.
        cohorts: Where they may be.
        records: Of predictions.
        also: Other pseudonyms of the patient, by which records know them: an image that comes over HTTP says nothing of the
            ``--site`` that a cohort tells its patients apart by.
        why: For the audit trail, which keeps that a pseudonym was erased.
        registry: The default one when None.

    Raises:
        NotFoundError: If nothing is known of them anywhere.
    """
    for root in cohorts:
        open_cohort(root)  # before anything is begun: what isn't a cohort was misspelt
    open_trail().record([Event("subject.erase", subject, "begun", why)])
    done: dict[str, Erasure] = {}
    unknown = NotFoundError(f"nothing is known of a subject {subject}: give the pseudonym as medray cohort split lists it")
    drawn: list[str] = []
    for root in cohorts:
        store = LabelStore(root)

        def labels_of(series: Sequence[str], store: LabelStore = store) -> Sequence[str]:
            found = store.erase(series)
            drawn.extend(found)
            return found

        try:
            done[root.path] = erase_from_cohort(root, subject, labels_of)
        except NotFoundError as error:  # their predictions may be on record all the same
            unknown = error if len(cohorts) == 1 else unknown
    series = {name for erasure in done.values() for name in erasure.series}
    gone = erase_records(records, subject, *also, series=series)
    models = _models_of(subject, registry or Registry())
    if not done and not gone and not models:
        raise unknown
    shards = sum(erasure.shards for erasure in done.values())
    told = f"{len(done)} cohorts, {shards} shards, {len(drawn)} labels, {gone} records; in {', '.join(models) or 'no model'}"
    open_trail().record([Event("subject.erase", subject, detail=told)])
    return Erased(done, len(drawn), gone, models)


def _models_of(subject: str, registry: Registry) -> dict[str, str]:
    """Return the versions that a patient had a part in, and those that began with one of them."""
    cards = {str(version): registry.card(version) for name in registry.names() for version in registry.versions(name)}
    parts = {name: [split for split, people in card.subjects.items() if subject in people] for name, card in cards.items()}
    found = {name: ", ".join(splits) for name, splits in parts.items() if splits}
    taught = {name for name, splits in parts.items() if {"train", "val"} & set(splits)}
    while heirs := {name for name, card in cards.items() if card.lineage.get("start") in taught} - taught:
        taught |= heirs
        found |= {name: f"began with {cards[name].lineage['start']}" for name in heirs if name not in found}
    return found
