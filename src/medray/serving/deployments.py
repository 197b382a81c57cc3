"""The two Serve deployments: a gateway that speaks HTTP, and a model that answers."""

import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from medray import __version__
from medray.errors import MedrayError
from medray.formats.image import read_image
from medray.inference.predictor import Predictor
from medray.registry.registry import Registry
from medray.serving.results import Reply, accepted, answer, problem, refusal

__all__ = ["Gateway", "Model"]

api = FastAPI(title="medray", version=__version__, description="Medical image analysis. Research use only.")


@api.exception_handler(HTTPException)
async def _http_problem(request: Request, error: HTTPException) -> Response:
    """Say FastAPI's own refusals, such as an unknown path, as a problem too."""
    reply = problem(error.status_code, "refused", str(error.detail))
    return Response(reply.body, reply.status, media_type=reply.media_type)


@serve.deployment(max_ongoing_requests=2, max_queued_requests=16, health_check_period_s=10)
class Model:
    """One registered model, loaded once a replica.

    Args:
        reference: ``name``, ``name@alias`` or ``name/version``.
        registry: MLflow tracking URI.
        threads: Cores that the network may use.
    """

    def __init__(self, reference: str, registry: str, threads: int) -> None:
        torch.set_num_threads(threads)
        store = Registry(registry)
        self._version = store.resolve(reference)
        self._card = store.card(self._version)
        self._predictor = Predictor.load(store.fetch(self._version))

    def describe(self) -> dict[str, Any]:
        """Return what `/v1/models` says."""
        plan = self._card.plan
        return {
            "model": str(self._version),
            "task": plan.task,
            "labels": dict(plan.labels.names),
            "modalities": list(plan.modalities),
            "intended_use": self._card.intended_use,
            "scores": {split: dict(scores) for split, scores in self._card.scores.items()},
        }

    def answer(self, body: bytes, media_type: str) -> Reply:
        """Read an image, predict, and encode what was asked for; never raises for what is in the body."""
        started = time.perf_counter()
        try:
            volume = read_image(body)
            decoded = time.perf_counter()
            prediction = self._predictor.predict(volume)
        except MedrayError as error:
            return refusal(error)
        except Exception as error:  # noqa: BLE001 - a strange file must get an answer; its kind is told, nothing of its content
            return problem(HTTPStatus.BAD_REQUEST, "unreadable", f"the image can't be read ({type(error).__name__})")
        latencies = {"decode": decoded - started, **prediction.latencies}
        return answer(prediction, str(self._version), media_type, latencies)


@serve.deployment(max_ongoing_requests=64)
@serve.ingress(api)
class Gateway:
    """HTTP in, HTTP out: sizes, media types, routing and request ids; no image is decoded here.

    Args:
        models: Reference to the deployment that serves it.
        max_body_bytes: Larger bodies are refused with 413.
    """

    def __init__(self, models: Mapping[str, DeploymentHandle[Any]], max_body_bytes: int) -> None:
        self._models = dict(models)
        self._max_body_bytes = max_body_bytes

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Say that the gateway lives."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz(self) -> dict[str, str]:
        """Say that every model is loaded; waits for those that aren't."""
        for handle in self._models.values():
            await handle.describe.remote()
        return {"status": "ready"}

    @api.get("/v1/models")
    async def models(self) -> dict[str, list[dict[str, Any]]]:
        """List what is served."""
        return {"models": [await handle.describe.remote() for handle in self._models.values()]}

    @api.get("/v1/models/{model:path}")
    async def model(self, model: str) -> Any:
        """Describe one model."""
        handle = self._find(model)
        return await handle.describe.remote() if handle else self._respond(self._unknown(model), {})

    @api.post("/v1/segment/{model:path}")
    async def segment(self, model: str, request: Request) -> Response:
        """Segment one image: NIfTI, one DICOM, or a zip of DICOM in; JSON or a NIfTI mask out, as Accept says."""
        started = time.perf_counter()
        reply = await self._segment(model, request)
        total = f"total;dur={(time.perf_counter() - started) * 1000:.2f}"
        timing = ", ".join(filter(None, [reply.headers.get("Server-Timing", ""), total]))
        return self._respond(reply, {"Server-Timing": timing})

    async def _segment(self, model: str, request: Request) -> Reply:
        handle = self._find(model)
        if handle is None:
            return self._unknown(model)
        media_type = accepted(request.headers.get("accept", ""))
        if media_type is None:
            return problem(HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", "Accept application/json or application/x-nifti")
        body = await self._body(request)
        if body is None:
            limit = self._max_body_bytes >> 20
            return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"a body may have at most {limit} MiB")
        if not body:
            return problem(HTTPStatus.BAD_REQUEST, "empty-body", "the body is empty: send the image's bytes")
        try:
            reply: Reply = await handle.answer.remote(body, media_type)
        except BackPressureError:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "all replicas are busy: try again", {"Retry-After": "2"})
        return reply

    async def _body(self, request: Request) -> bytes | None:
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._max_body_bytes:
                return None
            chunks.append(chunk)
        return b"".join(chunks)

    def _find(self, model: str) -> DeploymentHandle[Any] | None:
        """Find by the reference it is served as, or by its bare name where that is one model."""
        if model in self._models:
            return self._models[model]
        named = [handle for reference, handle in self._models.items() if re.split("[@/]", reference)[0] == model]
        return named[0] if len(named) == 1 else None

    def _unknown(self, model: str) -> Reply:
        served = ", ".join(sorted(self._models))
        return problem(HTTPStatus.NOT_FOUND, "no-such-model", f"no model {model[:80]!r} is served here; there is {served}")

    @staticmethod
    def _respond(reply: Reply, headers: Mapping[str, str]) -> Response:
        """Serve itself adds ``X-Request-ID``: the client's own where it sent one."""
        return Response(reply.body, reply.status, media_type=reply.media_type, headers={**reply.headers, **headers})
