"""A patient's scans in a pool's replica: each segmented by the model, then aligned, and what changed as a reply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from medray.errors import InputError
from medray.formats.image import dicom_files
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.progression.history import TimePoint, Tracking, history_of
from medray.progression.report import report_page
from medray.progression.track import day_of, series_of
from medray.progression.written import plain_history, structured_report
from medray.serving.form import Part, compose
from medray.serving.results import JSON, NRRD, REPORT, SEGMENTATION, Reply

__all__ = ["history_reply", "time_point"]


def time_point(number: int, day: float | None, files: Sequence[bytes], image: Volume, mask: Volume) -> TimePoint:
    """Return a scan as a time point.

    Args:
        number: Of the scan, from 1, as its sender counts.
        day: When it was made; by its DICOM header where None.
        files: That it was read from.
        image: What was read.
        mask: What the model says of it.

    Raises:
        InputError: If nothing says when it was made.
    """
    try:
        inside = dicom_files(files)
    except InputError:  # it is of another format
        inside = []
    return TimePoint(f"scan {number}", day_of(inside) if day is None else day, image, mask, series_of(inside))


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
    parts = [Part("result", said, media_type=JSON), Part("report", report, "report.html", "text/html")]
    affine, shape = history.alignment.affine, history.alignment.shape
    for at, point in enumerate(ordered):
        for name, volume, order in (("image", point.image, 1), ("mask", point.mask, 0)):
            voxels = history.alignment.sampled(at, volume, affine, shape, order=order)[None]
            whole = Volume(voxels.astype("uint8") if name == "mask" else voxels, affine)
            parts.append(Part(f"{name}-{at + 1}", write_nrrd(whole, level=1), f"{name}-{at + 1}.nrrd", NRRD))
    body, composed = compose(parts)
    return Reply(HTTPStatus.OK, composed, body, headers)
