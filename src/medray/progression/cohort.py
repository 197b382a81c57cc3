"""What changed in every patient of a cohort: a Ray Data job, a patient a row, resumable, failures as records.

::

    OUTPUT/patients/SUBJECT/...     as `track` writes it
    OUTPUT/records/SUBJECT.json     what became of a patient
    OUTPUT/patients.json            all records, written last
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.cohort import open_cohort
from medray.errors import InputError, StorageError
from medray.inference.bundled import kept_predictor
from medray.inference.records import OK, Record, Records, failures, problem_of
from medray.models.runtime import EXACT, Runtime
from medray.progression.courses import Courses
from medray.progression.history import History, Tracking
from medray.progression.patients import Patient, patients_of
from medray.progression.track import pointed, write_all, write_by_model
from medray.progression.visit import Visit
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion
from medray.storage.location import Location, file_name, locate

__all__ = ["Tracked", "track_all"]

CRASHED = "aligning or segmenting it ended its process each time: it is damaged, or too large for a worker"


@dataclass(frozen=True, slots=True)
class Tracked:
    """What a run left.

    Attributes:
        model: ``name/version``, or ``masks`` for the cohort's own.
        tracked: Patients with a history, those of earlier runs included.
        failed: Reason to number of patients.
        resumed: Patients that an earlier run had done.
        once: Patients who were scanned once, of whom there is nothing to say.
    """

    model: str
    tracked: int
    failed: Mapping[str, int]
    resumed: int
    once: int


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs to know."""

    registry: str
    version: ModelVersion | None
    cohort: Location
    output: Location
    how: Tracking
    runtime: Runtime

    @property
    def model(self) -> str:
        """Of what made the masks."""
        return str(self.version) if self.version else "masks"

    @property
    def records(self) -> Records:
        """What became of each patient."""
        return Records(self.output.join("records"), self.model)


def track_all(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    registry: Registry | None = None,
    runtime: Runtime = EXACT,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    **how: Any,
) -> Tracked:
    """Track every patient of a cohort who was scanned twice or more; call it again to go on where a run was killed.

    Of a patient's series those count that are of the modality which the most studies have; of several in one study,
    those with the most voxels of which each study has one alike; of several studies of one day the last. Dates are those that
    the cohort keeps sealed, so that its pseudonym key is needed.

    Args:
        model: ``name``, ``name@alias`` or ``name/version`` of a segmentation or progression; empty for the
            cohort's own label maps.
        source: The cohort.
        output: A folder, a path or a URI.
        registry: The default one when None.
        runtime: What runs the network.
        on_progress: Called with ``("track", done, total)``.
        **how: `Tracking`'s fields.

    Raises:
        NotFoundError: If there is no such model or cohort.
        ConfigError: If a setting is unknown, the runtime isn't installed, or the cohort's pseudonym key isn't there.
        InputError: If the cohort has no label maps and there is no model.
        StorageError: If the cohort or the output can't be reached.
    """
    tracking, store, place = config.load(Tracking, how, what="tracking settings"), registry or Registry(), locate(source)
    runtime.require()
    version, cohort = store.resolve(model) if model else None, open_cohort(place)
    if version is None and cohort.index.labels is None:
        raise InputError("the cohort has no label maps: say which model is to segment its images")
    work = _Work(store.uri, version, place, locate(output), tracking, replace(runtime, threads=1))
    work.output.sweep()
    facts = [work.model, json.dumps(config.dump(work.how))]
    patients, once = patients_of(cohort, facts, labelled=version is None)
    records, resumed = work.records.completed(patients, partial(_track, work), CRASHED, partial(on_progress, "track"))
    work.output.join("patients.json").write(json.dumps(records, indent=1).encode())
    failed = failures(records)
    tracked = len(records) - sum(failed.values())
    open_trail().record([Event("cohort.track", work.model, detail=f"{tracked} of {len(records)} patients")])
    return Tracked(work.model, tracked, failed, resumed, once)


def _track(work: _Work, patient: Patient) -> Record:
    """Track one patient, and note and return what became of it. Never raises for what is in the images."""
    try:
        visits = _visits(work, patient)
        found = _written(work, patient, visits)
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - one patient must not stop a run; the kind of error is recorded
        return work.records.note(patient.name, patient.stamp, *problem_of(error, "a scan"))
    facts = {"time_points": len(visits), "years": found.years[-1], **found.brief()}
    return work.records.note(patient.name, patient.stamp, OK, "", **facts)


def _visits(work: _Work, patient: Patient) -> list[Visit]:
    cohort, days = open_cohort(work.cohort), patient.days(work.how.apart_days)
    return [
        Visit(f"time point {at}", day, cohort.volume(row))
        for at, (row, day) in enumerate(zip(patient.rows, days, strict=True), start=1)
    ]


def _written(work: _Work, patient: Patient, visits: list[Visit]) -> History | Courses:
    """Tell what changed by the model or, without one, by the cohort's own label maps."""
    target = work.output.join("patients", file_name(patient.name))
    if work.version is not None:
        predictor = kept_predictor(work.registry, work.version, work.runtime)
        return write_by_model(target, visits, predictor, work.how, work.model)
    cohort = open_cohort(work.cohort)
    names: Mapping[str, int] = cohort.index.labels.names if cohort.index.labels else {}
    masks = [visit.image.with_voxels(cohort.mask(row)[np.newaxis]) for visit, row in zip(visits, patient.rows, strict=True)]
    points = [pointed(visit, mask) for visit, mask in zip(visits, masks, strict=True)]
    return write_all(target, points, names, work.how, work.model)
