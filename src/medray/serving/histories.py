"""What changed between a patient's scans as a reply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import numpy as np

from medray.errors import InputError
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.progression.courses import Courses, courses_report
from medray.progression.courses_page import courses_page
from medray.progression.history import Tracking, history_of
from medray.progression.report import report_page
from medray.progression.visit import TimePoint
from medray.progression.written import plain_history, structured_report
from medray.serving.form import Part, compose
from medray.serving.results import JSON, NRRD, REPORT, SEGMENTATION, Reply

__all__ = ["courses_reply", "history_reply"]


def history_reply(points: Sequence[TimePoint], names: Mapping[str, int], how: Tracking, model: str, media_type: str) -> Reply:
    """Measure what changed and encode it.

    Args:
        points: In any order.
        names: Of the masks' labels, and their values.
        how: Which lesions are followed, and how.
        model: ``name/version``.
        media_type: One of `medray.serving.patient.HISTORIES`.

    Raises:
        InputError: If days are missing or alike, or a report is asked for and the last scan isn't a DICOM series.
        ImageError: If they can't be aligned.
    """
    history, ordered = history_of(points, names, how), sorted(points, key=lambda point: point.day)
    headers = {"X-Medray-Model": model}
    if media_type == REPORT:
        if ordered[-1].series is None:
            raise InputError("the last scan is no DICOM series, which a report could be about: ask for application/json")
        return Reply(HTTPStatus.OK, SEGMENTATION, structured_report(history, ordered, len(ordered) - 1, model), headers)
    said = json.dumps({"model": model, **plain_history(history, ordered)}).encode()
    if media_type == JSON:
        return Reply(HTTPStatus.OK, JSON, said, headers)
    report = report_page(history, ordered, names).encode()
    parts = [
        Part("result", said, media_type=JSON),
        Part("report", report, "report.html", "text/html"),
    ]
    affine, shape = history.alignment.affine, history.alignment.shape
    for at, point in enumerate(ordered):
        for name, volume, order in (("image", point.image, 1), ("mask", point.mask, 0)):
            voxels = history.alignment.sampled(at, volume, affine, shape, order=order)[None]
            whole = Volume(voxels.astype("uint8") if name == "mask" else voxels, affine)
            parts.append(_nrrd(f"{name}-{at + 1}", whole))
    body, composed = compose(parts)
    return Reply(HTTPStatus.OK, composed, body, headers)


def courses_reply(courses: Courses, model: str, media_type: str) -> Reply:
    """Encode what a model of progression says.

    Args:
        courses: Of a patient.
        model: ``name/version``.
        media_type: One of `medray.serving.patient.HISTORIES`; a form has both scans of each pair on its grid, and transitions.

    Raises:
        InputError: If a report is asked for and the last scan isn't a DICOM series.
    """
    headers = {"X-Medray-Model": model}
    if media_type == REPORT:
        return Reply(HTTPStatus.OK, SEGMENTATION, courses_report(courses, len(courses.visits) - 1, model), headers)
    said = json.dumps({"model": model, **courses.plain()}).encode()
    if media_type == JSON:
        return Reply(HTTPStatus.OK, JSON, said, headers)
    parts = [Part("result", said, media_type=JSON), Part("report", courses_page(courses).encode(), "report.html", "text/html")]
    for at, (pair, found) in enumerate(zip(courses.pairs, courses.said, strict=True), start=1):
        step = f"{at}-{at + 1}"
        earlier, later = (pair.image.with_voxels(channel[np.newaxis]) for channel in pair.image.voxels)
        parts += [_nrrd(f"earlier-{step}", earlier), _nrrd(f"later-{step}", later), _nrrd(f"change-{step}", found.mask)]
    body, composed = compose(parts)
    return Reply(HTTPStatus.OK, composed, body, headers)


def _nrrd(name: str, volume: Volume) -> Part:
    return Part(name, write_nrrd(volume, level=1), f"{name}.nrrd", NRRD)
