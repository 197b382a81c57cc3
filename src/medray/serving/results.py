"""A prediction as the bytes that a client asked for, and a refusal as a problem (RFC 9457)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from medray.errors import ImageError, MedrayError, NotFoundError, ResourceError, StorageError
from medray.formats.nifti import write_nifti
from medray.formats.nrrd import write_nrrd
from medray.imaging.geometry import spacing_mm
from medray.imaging.volume import Volume
from medray.registry.card import ModelCard
from medray.registry.version import ModelVersion

if TYPE_CHECKING:  # the gateway knows no network
    from medray.inference.predictor import Prediction

__all__ = ["JSON", "NIFTI", "NRRD", "PROBLEM", "Reply", "accepted", "answer", "describe", "problem", "refusal"]

JSON = "application/json"
NIFTI = "application/x-nifti"
NRRD = "application/x-nrrd"
PROBLEM = "application/problem+json"
WRITERS: dict[str, Callable[[Volume], bytes]] = {NIFTI: write_nifti, NRRD: write_nrrd}
STATUS_OF_REASON = {"unknown-format": HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE}


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back over HTTP."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def accepted(header: str) -> str | None:
    """Choose the first media type of an Accept header that medray can give; None when there is none."""
    wanted = [part.split(";")[0].strip().lower() for part in header.split(",") if part.strip()] or ["*/*"]
    names = {JSON: JSON, "*/*": JSON, "application/*": JSON, NIFTI: NIFTI, "application/gzip": NIFTI, NRRD: NRRD}
    return next((names[media] for media in wanted if media in names), None)


def answer(prediction: Prediction, model: str, media_type: str, latencies: Mapping[str, float]) -> Reply:
    """Encode a prediction.

    Args:
        prediction: What the model said.
        model: ``name/version``.
        media_type: `JSON`, `NIFTI` or `NRRD`.
        latencies: Stage to seconds; ``encode`` is added where an image is written.

    Raises:
        InputError: If an image is asked for and the model gives none.
    """
    started = time.perf_counter()
    written = WRITERS[media_type](prediction.image) if media_type in WRITERS else b""
    encoded = {"encode": time.perf_counter() - started} if written else {}
    timing = {stage: round(seconds * 1000, 2) for stage, seconds in {**latencies, **encoded}.items()}
    headers = {
        "X-Medray-Model": model,
        "Server-Timing": ", ".join(f"{stage};dur={value}" for stage, value in timing.items()),
    }
    if written:
        return Reply(HTTPStatus.OK, media_type, written, headers)
    body: dict[str, Any] = {
        "model": model,
        **prediction.plain(),
        "shape": list(prediction.shape),
        "spacing_mm": list(spacing_mm(prediction.affine)),
        "latencies": timing,
    }
    return Reply(HTTPStatus.OK, JSON, json.dumps(body).encode(), headers)


def describe(version: ModelVersion, card: ModelCard) -> dict[str, Any]:
    """Return what `/v1/models` says of a model."""
    return {
        "model": str(version),
        "aliases": list(version.aliases),
        "task": card.plan.task,
        "labels": dict(card.plan.labels.names),
        "modalities": list(card.plan.modalities),
        "intended_use": card.intended_use,
        "scores": {split: dict(scores) for split, scores in card.scores.items()},
    }


def problem(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Say in one line what was wrong and what to do."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Reply(status, PROBLEM, json.dumps(body).encode(), headers or {})


def refusal(error: MedrayError) -> Reply:
    """Turn one of medray's errors into a problem."""
    if isinstance(error, ImageError):
        status = STATUS_OF_REASON.get(error.reason, HTTPStatus.BAD_REQUEST)
        return problem(status, error.reason, error.detail)
    if isinstance(error, NotFoundError):
        return problem(HTTPStatus.NOT_FOUND, "not-found", str(error))
    if isinstance(error, ResourceError | StorageError):
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, "busy", str(error), {"Retry-After": "5"})
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "unusable", str(error))
