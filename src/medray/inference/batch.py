"""A model on every image of a cohort, a folder or a bucket: plain functions that Ray Data maps, resumable, failures as records.

::

    OUTPUT/images/NAME.nii.gz     what the model said, one file an image
    OUTPUT/records/NAME.json      what became of it, written after the file: an image that has one isn't looked at again
    OUTPUT/predictions.json       all records, written last
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medray.audit import Event, open_trail
from medray.cohort.cohort import open_cohort
from medray.cohort.manifest import SeriesRow
from medray.engine import on_each_node, stream
from medray.errors import ImageError, InputError, NotFoundError, StorageError
from medray.formats.dicom import is_dicom
from medray.formats.dicom_header import read_dicom_file_header, read_dicom_header
from medray.formats.image import FILE_FORMATS, HEAD_BYTES, dicom_files, read_image_files, sniff
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.inference.bundled import kept_predictor
from medray.inference.prediction import Prediction
from medray.inference.recorded import kept_pseudonyms, of_row, recorded, sealed
from medray.inference.records import OK, Records, failures, problem_of
from medray.inference.written import SUFFIXES, Format, checked, written
from medray.models.runtime import EXACT, Runtime
from medray.monitoring.journal import Journal
from medray.monitoring.records import records_root
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion
from medray.storage.location import Location, file_name, locate

__all__ = ["Batch", "predict_all"]

MOST_SHARED_BYTES = 4 << 20
"""Of records on a node's disk: some thousand."""
CRASHED = "reading or predicting it ended its process each time: it is damaged, or too large for a worker"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a run left.

    Attributes:
        model: ``name/version``.
        predicted: Images with an answer, those of earlier runs included.
        failed: Reason to number of images.
        resumed: Images that an earlier run had done.
    """

    model: str
    predicted: int
    failed: Mapping[str, int]
    resumed: int


@dataclass(frozen=True, slots=True)
class _Item:
    """One image.

    Attributes:
        name: Of its answer.
        stamp: Changes when the image, the model or the format does.
        files: Relative to the source; none of a series of a cohort.
        row: Of a cohort.
    """

    name: str
    stamp: str
    files: tuple[str, ...] = ()
    row: SeriesRow | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs to know."""

    registry: str
    version: ModelVersion
    source: Location
    output: Location
    form: Format
    runtime: Runtime
    predictions: Location

    @property
    def records(self) -> Records:
        """What became of each image."""
        return Records(self.output.join("records"), str(self.version))


def predict_all(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    form: Format = "nifti",
    registry: Registry | None = None,
    runtime: Runtime = EXACT,
    records: str = "",
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Batch:
    """Predict on every image below a place; call it again to go on where a run was killed.

    Args:
        model: ``name``, ``name@alias`` or ``name/version``.
        source: A cohort, or a folder or bucket of images: files that keep one each, and DICOM files, put together by series.
        output: A folder, a path or a URI.
        form: See `medray.inference.written.written`.
        registry: The default one when None.
        runtime: What runs the network; what another one has said stays.
        records: URI of where records of predictions are kept; below ``MEDRAY_HOME`` where it is empty.
        on_progress: Called with ``("look", done, total)`` and ``("predict", done, total)``.

    Raises:
        NotFoundError: If there is no such model, or nothing at the source.
        ConfigError: If the format is unknown, or the runtime isn't installed.
        InputError: If DICOM results are asked for of a cohort, whose series are DICOM no more.
        StorageError: If the source or the output can't be reached.
    """
    store = registry or Registry()
    runtime.require()
    version, place = store.resolve(model), locate(source)
    alone = replace(runtime, threads=1)  # of an image in work; others are beside it
    work = _Work(store.uri, version, place, locate(output), checked(form), alone, records_root(records))
    work.output.sweep()
    if place.join("cohort.json").exists():
        if form.startswith("dicom"):
            raise InputError("a cohort's series are DICOM no more: ask for nifti, nrrd or json")
        items = [_Item(row.series, _stamp(version, form, row.volume), row=row) for row in open_cohort(place).rows]
    else:
        items = _found(work, on_progress)
    notes, resumed = work.records.completed(items, partial(_predict, work), CRASHED, partial(on_progress, "predict"))
    on_each_node(partial(_move, work.predictions))
    return _summary(work, notes, resumed=resumed)


def _summary(work: _Work, notes: Sequence[Mapping[str, Any]], *, resumed: int) -> Batch:
    work.output.join("predictions.json").write(json.dumps(notes, indent=1).encode())
    failed = failures(notes)
    predicted = len(notes) - sum(failed.values())
    open_trail().record([Event("model.predict", str(work.version), detail=f"{predicted} of {len(notes)} images")])
    return Batch(str(work.version), predicted, failed, resumed)


def _found(work: _Work, on_progress: Callable[[str, int, int], None]) -> list[_Item]:
    """Look at every file's head: files that keep an image are one each, DICOM files go together by series."""
    entries = work.source.entries() if work.source.exists() else []
    if not entries:
        raise NotFoundError("there is nothing at the source to predict on")
    series: dict[str, list[tuple[str, str]]] = defaultdict(list)
    facts = {entry.name: f"{entry.name}:{entry.size}:{entry.modified_ns}" for entry in entries}
    for seen, (name, key) in enumerate(stream([entry.name for entry in entries], lambda name: _look(work, name)), start=1):
        if key:
            series[key].append((name, facts[name]))
        on_progress("look", seen, len(entries))
    groups = [sorted(files) for files in series.values()]
    return sorted(
        (
            _Item(
                _named(files), _stamp(work.version, work.form, *(fact for _, fact in files)), tuple(name for name, _ in files)
            )
            for files in groups
        ),
        key=lambda item: item.name,
    )


def _look(work: _Work, name: str) -> tuple[str, str]:
    """Return a file's name, and what images its voxels belong to: the series, the file itself, or nothing."""
    place = work.source.join(name)
    try:
        head = place.read(HEAD_BYTES)
        if is_dicom(head):
            return name, f"series {(read_dicom_header(head) or read_dicom_file_header(place.read())).series}"
    except (ImageError, StorageError):
        return name, f"file {name}"  # whoever reads it will say what is wrong with it
    return name, f"file {name}" if sniff(head) in FILE_FORMATS else ""


def _named(files: Sequence[tuple[str, str]]) -> str:
    """Return the name of an image's answer: its file's path in one word, made unique by a hash; it may hold what paths hold."""
    first = files[0][0]
    word = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in first.split(".")[0])[-80:]
    return f"{word}-{hashlib.sha256(first.encode()).hexdigest()[:8]}"


def _stamp(version: ModelVersion, form: str, *facts: str) -> str:
    return hashlib.sha256("\n".join([str(version), form, *facts]).encode()).hexdigest()[:32]


def _predict(work: _Work, item: _Item) -> dict[str, Any]:
    """Predict on one image, and note and return what became of it. Never raises for what is in the image."""
    try:
        predictor = kept_predictor(work.registry, work.version, work.runtime)
        files, volume = _opened(work, item)
        prediction = predictor.predict(volume)
        data = written(prediction, work.form, str(work.version), lambda: dicom_files(files))
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - one image must not stop a run of ten million; its kind is recorded
        return work.records.note(item.name, item.stamp, *problem_of(error, "the image"))
    try:
        _record(work, item, files, volume, predictor, prediction)
    except OSError as error:  # it isn't the image's fault: a rerun is to look at it again
        raise StorageError(
            f"a prediction's record can't be kept on this node ({type(error).__name__}): free its disk"
        ) from None
    file = f"images/{file_name(item.name)}{SUFFIXES[work.form]}"
    work.output.join(file).write(data)
    return work.records.note(item.name, item.stamp, OK, "", file=file, **prediction.plain())


def _record(work: _Work, item: _Item, files: list[bytes], volume: Volume, predictor: Any, prediction: Prediction) -> None:
    """Keep a record of a prediction, before its answer is there."""
    facts: dict[str, Any] = {}
    if item.row is not None:
        files, facts = [write_nrrd(volume, level=None)], of_row(item.row)
    elif len(files) == 1 and (names := kept_pseudonyms()):
        facts = {"reference": sealed({"uri": work.source.join(item.files[0]).path}, names)}
    journal = Journal(work.predictions)
    record = recorded(work.version, predictor, prediction, volume, files, work.runtime, **facts)
    if journal.share(record) > MOST_SHARED_BYTES:
        journal.move()


def _move(predictions: Location) -> None:
    Journal(predictions).move()


def _opened(work: _Work, item: _Item) -> tuple[list[bytes], Volume]:
    if item.row is not None:
        return [], open_cohort(work.source).volume(item.row)
    files = [work.source.join(name).read() for name in item.files]
    return files, read_image_files(files)
