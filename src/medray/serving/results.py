"""A prediction as the bytes that a client asked for, and a refusal as a problem (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from medray.errors import ImageError, MedrayError, NotFoundError, ResourceError
from medray.formats.nifti import write_nifti
from medray.imaging.geometry import spacing_mm
from medray.inference.predictor import Prediction

__all__ = ["JSON", "NIFTI", "PROBLEM", "Reply", "accepted", "answer", "problem", "refusal"]

JSON = "application/json"
NIFTI = "application/x-nifti"
PROBLEM = "application/problem+json"
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
    for media in wanted:
        if media in {JSON, "*/*", "application/*"}:
            return JSON
        if media in {NIFTI, "application/gzip"}:
            return NIFTI
    return None


def answer(prediction: Prediction, model: str, media_type: str, latencies: Mapping[str, float]) -> Reply:
    """Encode a prediction.

    Args:
        prediction: What the model said.
        model: ``name/version``.
        media_type: `JSON` or `NIFTI`.
        latencies: Stage to seconds, the prediction's own included.
    """
    timing = {stage: round(seconds * 1000, 2) for stage, seconds in latencies.items()}
    headers = {
        "X-Medray-Model": model,
        "Server-Timing": ", ".join(f"{stage};dur={value}" for stage, value in timing.items()),
    }
    if media_type == NIFTI:
        return Reply(HTTPStatus.OK, NIFTI, write_nifti(prediction.image), headers)
    body: dict[str, Any] = {
        "model": model,
        **prediction.plain(),
        "shape": list(prediction.shape),
        "spacing_mm": list(spacing_mm(prediction.affine)),
        "latencies": timing,
    }
    return Reply(HTTPStatus.OK, JSON, json.dumps(body).encode(), headers)


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
    if isinstance(error, ResourceError):
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, "busy", str(error), {"Retry-After": "5"})
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "unusable", str(error))
