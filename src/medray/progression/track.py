"""`track`: what changed between a patient's scans, from files to a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from medray import config
from medray.audit import Event, open_trail
from medray.errors import InputError, LabelError
from medray.formats.dicom_header import read_dicom_file_header
from medray.formats.dicom_results import Source
from medray.formats.image import dicom_files, files_at, read_image_files, read_image_path
from medray.imaging.labels import onto
from medray.imaging.volume import Volume
from medray.inference.bundled import BundlePredictor, load_predictor
from medray.inference.prediction import Prediction
from medray.inference.predictor import Predictor
from medray.models.runtime import EXACT, Runtime
from medray.progression.courses import Courses, courses_of, write_courses
from medray.progression.courses_page import write_courses_page
from medray.progression.history import History, Tracking, followed, history_of
from medray.progression.report import write_report
from medray.progression.visit import TimePoint, Visit, require_one_patient
from medray.progression.written import write_history
from medray.registry.registry import Registry
from medray.storage.location import Location, locate

__all__ = [
    "Scan",
    "day_of",
    "label_map_of",
    "patient_of",
    "pointed",
    "segmented",
    "series_of",
    "track",
    "watchful",
    "write_all",
    "write_by_model",
]

ANY = {"lesion": 1}
"""What a mask's values mean where nobody says: whatever isn't 0 is lesion."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One of a patient's scans.

    Attributes:
        source: A file, or a zip or folder of DICOM.
        day: When it was made, counted from any day; by DICOM's StudyDate when None.
        mask: A label map on its grid, instead of a model's.
    """

    source: str | Path
    day: float | None = None
    mask: str | Path | None = None


def track(
    model: str,
    scans: Sequence[Scan | str | Path],
    output: str | Path,
    *,
    labels: Mapping[str, int] | None = None,
    registry: Registry | None = None,
    runtime: Runtime = EXACT,
    **how: Any,
) -> History | Courses:
    """Measure what changed between a patient's scans and write it down.

    By a segmentation, or masks::

        OUTPUT/history.json   everything
        OUTPUT/lesions.csv    a row for each lesion and time point; structures.csv of the other labels
        OUTPUT/report-N.dcm   of each DICOM series, the earliest first: a Structured Report whose tracking UIDs stay
        OUTPUT/report.html    pictures, lesions and their trajectories; report.pdf is the same on paper

    By a model of progression, which looks at each scan and the next together::

        OUTPUT/courses.json   everything
        OUTPUT/courses.csv    a row for each label and pair of scans
        OUTPUT/report-N.dcm   of each DICOM series after the first
        OUTPUT/report.html    pictures and courses; report.pdf is the same on paper

    Args:
        model: ``name``, ``name@alias`` or ``name/version`` of a segmentation or progression; empty where each scan has a mask.
        scans: Two or more, in any order.
        output: A folder, a path or a URI.
        labels: What the masks' values mean; without, whatever isn't 0 is lesion.
        registry: The default one when None.
        runtime: What runs the network.
        **how: `Tracking`'s fields: ``lesions``, ``repeatability``, ``scale``, ``warp``, ``one_patient``; a model of progression
            takes the last alone.

    Raises:
        NotFoundError: If the model or a source isn't there.
        ImageError: If a source can't be read, or the scans can't be aligned.
        InputError: If a date is missing, scans are of several patients, a mask has another grid, or the model is for something
            else.
        ConfigError: If the runtime isn't installed, or on an unknown setting.
    """
    tracking = config.load(Tracking, how, what="tracking settings")
    asked = [scan if isinstance(scan, Scan) else Scan(scan) for scan in scans]
    drawn = [Path(scan.mask) for scan in asked if scan.mask is not None]
    if len(drawn) != (0 if model else len(asked)):
        raise InputError("give a model, or else a mask for each scan, and not both")
    visits = [_visit(scan, number) for number, scan in enumerate(asked, start=1)]
    if not tracking.one_patient:
        require_one_patient(visits)
    target = locate(output)
    if model:
        store = registry or Registry()
        version = store.resolve(model)
        runtime.require()
        found = write_by_model(target, visits, load_predictor(store.fetch(version), runtime=runtime), tracking, str(version))
    else:
        points = [pointed(visit, _given(mask, visit.image, labels)) for visit, mask in zip(visits, drawn, strict=True)]
        found = write_all(target, points, labels or ANY, tracking, "masks/1")
    open_trail().record([Event("patient.track", model or "masks", detail=f"{len(visits)} time points")])
    return found


def write_by_model(
    target: Location, visits: Sequence[Visit], predictor: Predictor | BundlePredictor, how: Tracking, model: str
) -> History | Courses:
    """Have a model say what is in a patient's scans, or what became of it, and write all of it; see `track`.

    Args:
        target: The folder.
        visits: In any order.
        predictor: The model.
        how: Which lesions are followed, and how.
        model: ``name/version``.

    Raises:
        ImageError: If the scans can't be aligned.
        InputError: If the model is neither a segmentation nor a progression, or the settings aren't for it.
    """
    if predictor.task == "progression":
        how.require_plain()
        courses = courses_of(predictor.predict, visits)
        write_courses(target, courses, model)
        write_courses_page(target, courses)
        return courses
    if predictor.task != "segmentation":
        raise InputError(f"{model} is for {predictor.task}: change is told by a segmentation or a progression")
    sure = watchful(predictor, how)
    found = [sure.predict(visit.image) for visit in visits]
    points = [segmented(visit, said) for visit, said in zip(visits, found, strict=True)]
    return write_all(target, points, label_map_of(found[0])[0], how, model)


def write_all(target: Location, points: Sequence[TimePoint], names: Mapping[str, int], how: Tracking, model: str) -> History:
    """Measure what changed between time points, and write all of it; see `track`.

    Args:
        target: The folder.
        points: In any order.
        names: Of the masks' labels, and their values.
        how: Which lesions are followed, and how.
        model: ``name/version`` of what made the masks.
    """
    history, ordered = history_of(points, names, how), sorted(points, key=lambda point: point.day)
    write_history(target, history, ordered, model)
    write_report(target, history, ordered, names)
    return history


def watchful(predictor: Predictor | BundlePredictor, how: Tracking) -> Predictor | BundlePredictor:
    """Return the model so that it says how sure it is of the lesions that are followed; a bundle can't.

    Raises:
        InputError: If there is no such label.
    """
    if isinstance(predictor, BundlePredictor) or predictor.task != "segmentation":
        return predictor
    targets = predictor.plan.targets
    return predictor.keeping(followed({name: at for at, name in enumerate(targets)}, how.lesions))


def segmented(visit: Visit, said: Prediction) -> TimePoint:
    """Return a scan with what a segmentation says is in it."""
    return replace(pointed(visit, label_map_of(said)[1]), likely=said.likely)


def label_map_of(found: Prediction) -> tuple[Mapping[str, int], Volume]:
    """Return what a segmentation's labels are, and the one label map that it makes of an image."""
    voxels = found.mask.voxels
    if len(voxels) == 1:
        return found.values, found.mask
    label = np.zeros((1, *found.shape), np.uint8)
    for number, channel in enumerate(voxels, start=1):
        label[0][channel > 0] = number
    return {name: number for number, name in enumerate(found.values, start=1)}, found.mask.with_voxels(label)


def pointed(visit: Visit, mask: Volume) -> TimePoint:
    """Return a scan with what was found in it."""
    return TimePoint(visit.name, visit.day, visit.image, visit.series, mask=mask)


def _visit(scan: Scan, number: int) -> Visit:
    found = files_at(Path(scan.source))
    image, files = read_image_files(found), _dicom_of(found)
    day = day_of(files) if scan.day is None else scan.day
    return Visit(f"scan {number}", day, image, series_of(files), patient_of(files))


def _given(path: Path, image: Volume, labels: Mapping[str, int] | None) -> Volume:
    try:
        mask = onto(image, read_image_path(path))
    except LabelError:
        raise InputError("a mask has another grid than its scan: give one that was drawn on it") from None
    return mask if labels else mask.with_voxels((mask.voxels != 0).astype(np.uint8))


def _dicom_of(files: Sequence[bytes]) -> list[bytes]:
    """Return a scan's DICOM files; none where it isn't DICOM."""
    try:
        return dicom_files(files)
    except InputError:
        return []


def series_of(files: Sequence[bytes]) -> Source | None:
    """Return what a scan is in DICOM, or None where it isn't, or where nothing could refer to it."""
    try:
        return Source.of(files)
    except (InputError, IndexError):
        return None


def patient_of(files: Sequence[bytes]) -> str:
    """Return PatientID; empty where the files are no DICOM, or don't say."""
    try:
        return read_dicom_file_header(files[0]).patient.strip()
    except (InputError, IndexError):
        return ""


def day_of(files: Sequence[bytes]) -> float:
    """Return StudyDate as a count of days.

    Raises:
        InputError: If the files are no DICOM, or don't say.
    """
    try:
        acquired = read_dicom_file_header(files[0]).acquired[:8]
        return float(date(int(acquired[:4]), int(acquired[4:6]), int(acquired[6:])).toordinal())
    except (InputError, IndexError, ValueError):
        raise InputError("a scan doesn't say when it was made: give days, one for each scan") from None
