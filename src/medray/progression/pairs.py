"""`pair_up`: a cohort of pairs from a cohort of follow-ups, which a progression model learns from as from any cohort.

A patient's scans are aligned two by two (`medray.progression.pair`); a pair is a series of two channels, its label map says
what each voxel was and became (`medray.imaging.transitions`). A Ray Data job, a patient a row, resumable;
failures are quarantined.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as strict_dataclass

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort, open_cohort
from medray.cohort.commit import Contents, base_of, commit_cohort
from medray.cohort.fingerprint import measure
from medray.cohort.manifest import QuarantineRow, SeriesRow
from medray.cohort.shards import write_shard
from medray.errors import InputError, StorageError
from medray.imaging.transitions import Transitions
from medray.inference.records import OK, Record, Records, failures, problem_of
from medray.progression.history import followed
from medray.progression.midway import pairs_of
from medray.progression.pair import label_map_of_pair, pair_of
from medray.progression.patients import Patient, patients_of
from medray.progression.visit import Visit
from medray.storage.location import Location, locate

__all__ = ["Paired", "Pairing", "pair_up"]

CRASHED = "aligning it ended its process each time: it is damaged, or too large for a worker"
SOURCE = "pairs_of"
_Scan: TypeAlias = tuple[SeriesRow, Visit]


@strict_dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Pairing:
    """How pairs are made.

    Attributes:
        labels: That are followed; by default those that are called lesions, or else all.
        apart_days: Between two studies of a patient of which no date is known; 0 refuses them.
    """

    labels: tuple[str, ...] = ()
    apart_days: float = Field(default=0.0, ge=0)


@dataclass(frozen=True, slots=True)
class Paired:
    """What a run left.

    Attributes:
        cohort: The id of the new cohort.
        pairs: In it.
        patients: Of whom they are.
        failed: Reason to number of patients of whom no pair could be made.
        resumed: Patients that an earlier run had done.
        once: Patients who were scanned once.
        labels: That are followed.
    """

    cohort: str
    pairs: int
    patients: int
    failed: Mapping[str, int]
    resumed: int
    once: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs to know."""

    source: Location
    target: Location
    labels: Transitions
    apart_days: float

    @property
    def records(self) -> Records:
        """What became of each patient."""
        return Records(self.target.join("records"), "pairs")


def pair_up(
    source: str | Path,
    root: str | Path,
    *,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    **how: Any,
) -> Paired:
    """Make a cohort of pairs; call it again to go on where a run was killed, or to take in what has come since.

    Of few time points all are paired with one another, of many each with the two before it and the first. Patients keep their
    pseudonyms, so that a split holds out the same ones as in the source.

    Args:
        source: A cohort with label maps, some patients of which were scanned more than once.
        root: The new cohort's folder, path or URI.
        on_progress: Called with ``("pair", done, total)``.
        **how: `Pairing`'s fields.

    Raises:
        NotFoundError: If there is no such cohort.
        ConfigError: If a setting is unknown, or the cohort's pseudonym key isn't there.
        InputError: If the cohort has no label maps or no such label, nobody was scanned twice, or no pair could be made.
        StorageError: If a store can't be reached.
    """
    pairing, place, target = config.load(Pairing, how, what="pairing settings"), locate(source), locate(root)
    cohort = open_cohort(place)
    work = _Work(place, target, _followed(cohort, pairing), pairing.apart_days)
    facts = [json.dumps(config.dump(pairing)), *work.labels.labels]
    patients, once = patients_of(cohort, facts, labelled=True)
    if not patients:
        raise InputError(f"none of the {once} labelled patients of cohort {cohort.index.id} was scanned more than once")
    base = base_of(target)
    records, resumed = work.records.completed(patients, partial(_pair, work), CRASHED, partial(on_progress, "pair"))
    failed, contents = failures(records), _contents(records, work.labels)
    if not contents.rows:
        raise InputError(f"no pair could be made of {len(patients)} patients: {', '.join(sorted(failed))}")
    made = commit_cohort(target, contents, {**cohort.index.lineage, SOURCE: cohort.index.id}, base=base)
    open_trail().record(
        [Event("cohort.pairs", made.index.id, detail=f"{len(contents.rows)} pairs of cohort {cohort.index.id}")]
    )
    good = len(records) - sum(failed.values())
    return Paired(made.index.id, len(contents.rows), good, failed, resumed, once, work.labels.labels)


def _followed(cohort: Cohort, pairing: Pairing) -> Transitions:
    if cohort.index.labels is None:
        raise InputError(f"cohort {cohort.index.id} has no label maps: there is no change to learn from")
    names = cohort.index.labels.names
    return Transitions(followed(names, pairing.labels) or tuple(names))


def _contents(records: Sequence[Record], labels: Transitions) -> Contents:
    """Return what the new cohort holds, failures as its quarantine."""
    rows = [config.load(SeriesRow, row, what="a pair's row") for record in records for row in record.get("rows", ())]
    refused = [
        QuarantineRow(source=record["name"], reason=reason, detail=detail, intake=record["stamp"])
        for record in records
        for reason, detail in _problems(record)
    ]
    return Contents(tuple(rows), tuple(refused), labels.schema)


def _problems(record: Record) -> Sequence[tuple[str, str]]:
    """Return what was wrong with a patient, or with some of their pairs."""
    return record.get("refused", []) if record["outcome"] == OK else [(record["outcome"], record["detail"])]


def _pair(work: _Work, patient: Patient) -> Record:
    """Pair one patient's scans, and note and return what became of it. Never raises for what is in the images."""
    try:
        cohort = open_cohort(work.source)
        days = patient.days(work.apart_days)
        scans = [
            (row, Visit(f"time point {at}", day, cohort.volume(row)))
            for at, (row, day) in enumerate(zip(patient.rows, days, strict=True), start=1)
        ]
        tried = [_tried(work, cohort, patient, scans[a], scans[b], time_point=b) for a, b in pairs_of(len(scans))]
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - one patient must not stop a run; the kind of error is recorded
        return work.records.note(patient.name, patient.stamp, *problem_of(error, "a scan"))
    rows = [config.dump(row) for row in tried if isinstance(row, SeriesRow)]
    refused = [problem for problem in tried if not isinstance(problem, SeriesRow)]
    if not rows:
        return work.records.note(patient.name, patient.stamp, *refused[0])
    return work.records.note(patient.name, patient.stamp, OK, "", rows=rows, refused=refused)


def _tried(
    work: _Work, cohort: Cohort, patient: Patient, earlier: _Scan, later: _Scan, *, time_point: int
) -> SeriesRow | tuple[str, str]:
    """Make a pair, or say what was wrong with it."""
    try:
        return _row(work, cohort, patient, earlier, later, time_point=time_point)
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - one pair must not cost the patient's others
        return problem_of(error, "a scan")


def _row(work: _Work, cohort: Cohort, patient: Patient, earlier: _Scan, later: _Scan, *, time_point: int) -> SeriesRow:
    """Write one pair, and return what the manifest says of it."""
    (first, _), (second, _) = earlier, later
    pair = pair_of(earlier[1], later[1])
    image, schema = pair.image, work.labels.schema
    masks = [scan.image.with_voxels(cohort.mask(row)[np.newaxis]) for row, scan in (earlier, later)]
    names = cohort.index.labels.names if cohort.index.labels else {}
    mask = label_map_of_pair(masks, names, work.labels, pair.alignment)
    volume = write_shard(work.target.join("volumes"), image)
    label = write_shard(work.target.join("labels"), image.with_voxels(mask[np.newaxis]))
    return SeriesRow(
        subject=patient.name,
        study=second.study,
        series=_hash(first.series, second.series)[:32],
        time_point=time_point,
        when=second.when,
        modality=image.meta["modality"],
        plane=(),
        channels=len(image.voxels),
        shape=image.shape,
        spacing_mm=image.spacing_mm,
        source_hash=_hash(first.volume, second.volume),
        intake=patient.stamp,
        instances=2,
        volume=volume.digest,
        volume_checksum=volume.checksum,
        label=label.digest,
        label_checksum=label.checksum,
        findings=(),
        statistics=measure(image, mask, schema),
    )


def _hash(*words: str) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()
