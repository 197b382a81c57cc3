"""A prediction as the bytes that a client asked for, and a refusal as a problem (RFC 9457)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from medray.errors import (
    ConflictError,
    ImageError,
    MedrayError,
    ModelError,
    NotFoundError,
    OutdatedError,
    ResourceError,
    StorageError,
)
from medray.formats.image import dicom_files
from medray.imaging.geometry import directions, spacing_mm
from medray.registry.card import ModelCard
from medray.registry.version import ModelVersion
from medray.serving.auth import Refusal
from medray.serving.form import Part, compose

if TYPE_CHECKING:  # the gateway knows no network
    from medray.inference.prediction import Prediction
    from medray.inference.written import Format

__all__ = [
    "BOTH",
    "JSON",
    "NIFTI",
    "NRRD",
    "OBJECTS",
    "PROBLEM",
    "REPORT",
    "SEGMENTATION",
    "SEGMENTS",
    "Reply",
    "accepted",
    "answer",
    "describe",
    "problem",
    "refusal",
    "told",
]

JSON = "application/json"
NIFTI = "application/x-nifti"
NRRD = "application/x-nrrd"
SEGMENTS = "application/x-nrrd; segments"
SEGMENTATION = "application/dicom"
REPORT = "application/dicom; report"
BOTH = "multipart/form-data"
"""What is said in JSON and, where there is one, the image that goes with it, as fields ``result`` and ``image`` of a form."""
OBJECTS = f'multipart/related; type="{SEGMENTATION}"'
"""All the DICOM objects that a model gives, as STOW-RS takes them: a segmentation where there is a mask, and a report."""
PROBLEM = "application/problem+json"
FORMATS: dict[str, Format] = {
    NIFTI: "nifti",
    NRRD: "nrrd",
    SEGMENTS: "seg-nrrd",
    SEGMENTATION: "dicom-seg",
    REPORT: "dicom-sr",
}
PROBLEMS: tuple[tuple[type[MedrayError], HTTPStatus, str, Mapping[str, str]], ...] = (
    (ModelError, HTTPStatus.INTERNAL_SERVER_ERROR, "model-failed", {}),
    (OutdatedError, HTTPStatus.PRECONDITION_FAILED, "outdated", {}),
    (ConflictError, HTTPStatus.CONFLICT, "conflict", {}),
    (NotFoundError, HTTPStatus.NOT_FOUND, "not-found", {}),
    (ResourceError, HTTPStatus.SERVICE_UNAVAILABLE, "busy", {"Retry-After": "5"}),
    (StorageError, HTTPStatus.SERVICE_UNAVAILABLE, "busy", {"Retry-After": "5"}),
    (MedrayError, HTTPStatus.UNPROCESSABLE_ENTITY, "unusable", {}),
)
"""What each error becomes: the first that it is one of."""
STATUS_OF_REASON = {"unknown-format": HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE}


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back over HTTP.

    Attributes:
        status: HTTP's.
        media_type: Of the body.
        body: Its bytes.
        headers: Beside the usual ones.
        timing: Stage to milliseconds, in turn.
        together: How many images went through the network at once.
        kept: Where the answer is kept, for who compares another version's with it; see `medray.serving.ticket`.
    """

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)
    together: int = 1
    kept: tuple[Any, ...] = ()

    @property
    def title(self) -> str:
        """Of a problem: its kind, such as ``other-modality``."""
        return str(json.loads(self.body).get("title", "")) if self.media_type == PROBLEM else ""

    @property
    def refused(self) -> str:
        """Of a problem: what was wrong."""
        said = json.loads(self.body) if self.media_type == PROBLEM else {}
        return f"{said.get('title', self.status)}: {said.get('detail', '')}"[:300]


def accepted(header: str) -> str | None:
    """Choose the first media type of an Accept header that medray can give; None when there is none."""
    names = {"*/*": JSON, "application/*": JSON, "application/gzip": NIFTI, **{kind: kind for kind in (JSON, BOTH, *FORMATS)}}
    for part in header.lower().split(",") if header.strip() else ["*/*"]:
        media, *parameters = (word.strip() for word in part.split(";"))
        wanted = next((kind for kind in (SEGMENTS, REPORT) if kind in {f"{media}; {word}" for word in parameters}), media)
        if wanted in names:
            return names[wanted]
    return None


def answer(
    prediction: Prediction,
    model: str,
    media_type: str,
    latencies: Mapping[str, float],
    files: Sequence[bytes],
    record: str = "",
) -> Reply:
    """Encode a prediction.

    Args:
        prediction: What the model said.
        model: ``name/version``.
        media_type: `JSON`, `BOTH` or one of `FORMATS`.
        latencies: Stage to seconds; ``encode`` is added where a file is written.
        files: The image's, which DICOM results refer to.
        record: Id of the prediction's record; none where it is empty.

    Raises:
        InputError: If the model gives no such thing, or a DICOM result is asked for and the image isn't DICOM.
    """
    from medray.inference.written import written  # noqa: PLC0415 - the gateway, which only refuses, knows no network

    if media_type == OBJECTS:
        return _objects(prediction, model, latencies, files, record)
    started = time.perf_counter()
    form = FORMATS.get(media_type) or (_image_of(prediction) if media_type == BOTH else None)
    file = written(prediction, form, model, lambda: dicom_files(files)) if form else b""
    encoded = {"encode": time.perf_counter() - started} if form else {}
    timing = {stage: round(seconds * 1000, 2) for stage, seconds in {**latencies, **encoded}.items()}
    headers = _headers(model, record)
    if form and media_type != BOTH:
        return Reply(HTTPStatus.OK, media_type.partition(";")[0], file, headers, timing)
    said: dict[str, Any] = {
        "model": model,
        **({"prediction": record} if record else {}),
        **prediction.plain(),
        "shape": list(prediction.shape),
        "spacing_mm": list(spacing_mm(prediction.affine)),
        "directions": directions(prediction.affine).round(6).tolist(),
        "latencies": timing,
    }
    if media_type != BOTH:
        return Reply(HTTPStatus.OK, JSON, json.dumps(said).encode(), headers, timing)
    parts = [Part("result", json.dumps(said).encode(), media_type=JSON)]
    body, composed = compose([*parts, *([Part("image", file, "result.nrrd", NRRD)] if form else [])])
    return Reply(HTTPStatus.OK, composed, body, headers, timing)


def describe(version: ModelVersion, card: ModelCard) -> dict[str, Any]:
    """Return what `/v1/models` says of a model."""
    return {
        "model": str(version),
        "aliases": list(version.aliases),
        "task": card.about.task,
        "targets": card.targets,
        "dimension": card.dimension,
        "modalities": list(card.about.modalities),
        "intended_use": card.intended_use,
        "scores": {split: dict(scores) for split, scores in card.scores.items()},
    }


def _headers(model: str, record: str) -> dict[str, str]:
    return {"X-Medray-Model": model, **({"X-Medray-Prediction": record} if record else {})}


def _objects(prediction: Prediction, model: str, latencies: Mapping[str, float], files: Sequence[bytes], record: str) -> Reply:
    """Encode a prediction as DICOM objects of one study."""
    from medray.inference.written import written  # noqa: PLC0415

    source = dicom_files(files)
    forms: list[Format] = ["dicom-sr"] if prediction.answer.mask is None else ["dicom-seg", "dicom-sr"]
    parts = [Part("", written(prediction, form, model, lambda: source), media_type=SEGMENTATION) for form in forms]
    body, composed = compose(parts, OBJECTS)
    timing = {stage: round(seconds * 1000, 2) for stage, seconds in latencies.items()}
    return Reply(HTTPStatus.OK, composed, body, _headers(model, record), timing)


def _image_of(prediction: Prediction) -> Format | None:
    """Return the form of the image that goes with what is said."""
    if prediction.answer.mask is not None:
        return "seg-nrrd"
    return "nrrd" if prediction.answer.saliency is not None else None


def told(said: Any, status: int = HTTPStatus.OK) -> Reply:
    """Say something in JSON."""
    return Reply(status, JSON, json.dumps(said).encode())


def problem(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Say in one line what was wrong and what to do."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Reply(status, PROBLEM, json.dumps(body).encode(), headers or {})


def other_task(version: str, task: str, asked: str) -> Reply:
    """Say that a model is for something else."""
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "other-task", f"{version} is for {task}, not {asked}")


def refusal(error: Exception) -> Reply:
    """Turn a refusal or an error into a problem; of what isn't medray's own, and a strange file may raise, only the kind."""
    if isinstance(error, Refusal):
        return problem(error.status, error.title, error.detail, error.headers)
    if isinstance(error, ImageError):
        status = STATUS_OF_REASON.get(error.reason, HTTPStatus.BAD_REQUEST)
        return problem(status, error.reason, error.detail)
    for kind, status, title, headers in PROBLEMS:
        if isinstance(error, kind):
            return problem(status, title, str(error), headers)
    said = f"the image can't be read ({type(error).__name__})"  # nothing of its content
    return problem(HTTPStatus.BAD_REQUEST, "unreadable", said)
