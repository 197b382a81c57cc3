"""`erase_subject`: one patient out of all that medray keeps: cohorts, labels, records, what lies beside models.

And which models saw them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medray.annotation.store import LabelStore
from medray.audit import Event, open_trail
from medray.cohort.erase import Erasure, erase_from_cohort, has_subject
from medray.errors import NotFoundError
from medray.inference.baseline import without_patient
from medray.monitoring.journal import Journal
from medray.monitoring.records import erase_subject as erase_records
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.registry.tracking import PICTURES
from medray.registry.version import ModelVersion
from medray.storage.location import Location, locate

__all__ = ["Erased", "erase_subject"]


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of a patient's data.

    Attributes:
        cohorts: Path of a cohort to what was taken out of it.
        labels: Label maps of annotators that are gone.
        records: Predictions whose records are gone.
        references: Versions whose reference, which drift is told by, had them and has them no more.
        models: Version to how the patient had a part in it: ``train``, ``val`` or ``test``, or which version with such a part
            it began with. Weights keep what they learned: retrain or delete those that were trained on the patient, as the law
            or the consent asks.
    """

    cohorts: dict[str, Erasure]
    labels: int
    records: int
    references: tuple[str, ...]
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

    Prepared folders, exports, backups and fits on other machines are copies that medray doesn't know of: make them anew from
    the current version. A replica that was killed within a moment of its answer has left a record without a name.

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
    there = [root for root in cohorts if has_subject(root, subject)]  # all are looked at before anything is begun
    open_trail().record([Event("subject.erase", subject, "begun", why)])
    done = {root.path: erase_from_cohort(root, subject, LabelStore(root)) for root in there}
    Journal(records).move()  # what ended processes of this node have left
    series = {name for erasure in done.values() for name in erasure.series}
    series |= {name.rpartition("-")[0] for name in series} - {""}  # records of DICOM know no parts of a series
    gone = erase_records(records, subject, *also, series=series)
    known = registry or Registry()
    references = tuple(without_patient({subject, *also}, series, known))
    cards = {version: known.card(version) for name in known.names() for version in known.versions(name)}
    models = _models_of(subject, {str(version): card for version, card in cards.items()})
    _discard_pictures(subject, cards, known)
    if not done and not gone and not references and not models:
        raise NotFoundError(f"nothing is known of a subject {subject}: give the pseudonym as medray cohort split lists it")
    shards = sum(erasure.shards for erasure in done.values())
    drawn = sum(len(erasure.labels) for erasure in done.values())
    told = f"{len(done)} cohorts, {shards} shards, {drawn} labels, {gone} records; in {', '.join(models) or 'no model'}"
    open_trail().record([Event("subject.erase", subject, detail=told)])
    return Erased(done, drawn, gone, references, models)


def _discard_pictures(subject: str, cards: Mapping[ModelVersion, ModelCard], registry: Registry) -> None:
    """Delete what fits drew of their validation patients, where the patient was one."""
    for version, card in cards.items():
        if subject not in card.subjects.get("val", ()) or "imported" in card.lineage:  # whose fit was elsewhere
            continue
        registry.beside(version).discard_pictures()
        run = locate(card.lineage["run"]) if card.lineage.get("run") else None
        if run is not None and run.join("run.json").exists() and run.join(PICTURES).exists():
            for entry in run.join(PICTURES).entries():
                run.join(PICTURES, entry.name).remove()


def _models_of(subject: str, cards: Mapping[str, ModelCard]) -> dict[str, str]:
    """Return the versions that a patient had a part in, and those that began with one of them."""
    parts = {name: [split for split, people in card.subjects.items() if subject in people] for name, card in cards.items()}
    found = {name: ", ".join(splits) for name, splits in parts.items() if splits}
    taught = {name for name, splits in parts.items() if {"train", "val"} & set(splits)}
    while heirs := {name for name, card in cards.items() if card.lineage.get("start") in taught} - taught:
        taught |= heirs
        found |= {name: f"began with {cards[name].lineage['start']}" for name in heirs if name not in found}
    return found
