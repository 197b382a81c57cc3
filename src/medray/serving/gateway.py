"""HTTP in, HTTP out: sizes, media types, references and request ids. No image is decoded here, and no network known."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from medray import __version__
from medray.errors import ImageError, MedrayError, ResourceError
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion
from medray.serving.references import References
from medray.serving.results import Reply, accepted, describe, problem, refusal
from medray.serving.room import Room

__all__ = ["Gateway", "GatewayConfig"]

ATTEMPTS = 3
"""Predicting twice does no harm: a request whose replica died goes to another."""
BUSY = {"Retry-After": "2"}

api = FastAPI(title="medray", version=__version__, description="Medical image analysis. Research use only.")


# Before the class: Serve takes a copy of the application, and of what it needs, where that is decorated.
def _respond(reply: Reply, headers: Mapping[str, str] | None = None) -> Response:
    """Make the response; Serve itself adds ``X-Request-ID``: the client's own where it sent one."""
    return Response(reply.body, reply.status, media_type=reply.media_type, headers={**reply.headers, **(headers or {})})


@api.exception_handler(HTTPException)
async def _http_problem(request: Request, error: HTTPException) -> Response:
    """Say FastAPI's own refusals, such as an unknown path, as a problem too."""
    return _respond(problem(error.status_code, "refused", str(error.detail)))


@api.exception_handler(MedrayError)
async def _medray_problem(request: Request, error: MedrayError) -> Response:
    return _respond(refusal(error))


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What the gateway allows.

    Attributes:
        registry: MLflow tracking URI.
        models: References that are kept loaded; their names are all that may be asked for, or any where there are none.
        max_body_mb: Of one request.
        bodies_mb: Of all requests that are being received or answered.
        timeout_s: Seconds that an answer may take.
        refresh_s: Seconds after which a moved alias is seen.
    """

    registry: str
    models: tuple[str, ...]
    max_body_mb: int
    bodies_mb: int
    timeout_s: float
    refresh_s: float

    @property
    def names(self) -> frozenset[str]:
        """Names of the models that may be asked for."""
        return frozenset(reference.split("@")[0].split("/")[0] for reference in self.models)


@serve.deployment(max_ongoing_requests=1024)
@serve.ingress(api)
class Gateway:
    """The one endpoint.

    Args:
        pool: Who answers.
        settings: What is allowed.
    """

    def __init__(self, pool: DeploymentHandle[Any], settings: GatewayConfig) -> None:
        self._pool = pool
        self._settings = settings
        self._registry = Registry(settings.registry)
        self._references = References(self._registry, settings.names, settings.refresh_s, self._warm)
        self._bodies = Room(settings.bodies_mb << 20, most_waiting=0)

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Say that the gateway lives."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz(self) -> dict[str, str]:
        """Say that the models which are kept loaded are; waits for those that aren't."""
        for reference in self._settings.models:
            await self._warm(await self._references.resolve(reference))
        return {"status": "ready"}

    @api.get("/v1/models")
    async def models(self) -> dict[str, list[dict[str, Any]]]:
        """List what may be asked for."""
        names = sorted(self._settings.names) or await asyncio.to_thread(self._registry.names)
        return {"models": [await self._describe(name) for name in names]}

    @api.get("/v1/models/{model:path}")
    async def model(self, model: str) -> dict[str, Any]:
        """Describe one model."""
        return await self._describe(model)

    @api.post("/v1/segment/{model:path}")
    async def segment(self, model: str, request: Request) -> Response:
        """Segment one image: NIfTI, NRRD, DICOM or a zip of DICOM in; JSON, or a NIfTI or NRRD mask out, as Accept says."""
        return await self._predict("segmentation", model, request)

    @api.post("/v1/diagnose/{model:path}")
    async def diagnose(self, model: str, request: Request) -> Response:
        """Say how probable findings are in one image; as an image: where each voxel speaks for them."""
        return await self._predict("diagnosis", model, request)

    @api.post("/v1/detect/{model:path}")
    async def detect(self, model: str, request: Request) -> Response:
        """Find things in one image: boxes with scores."""
        return await self._predict("detection", model, request)

    async def _predict(self, task: str, model: str, request: Request) -> Response:
        started = time.perf_counter()
        reply = await self._answer(task, model, request)
        total = f"total;dur={(time.perf_counter() - started) * 1000:.2f}"
        return _respond(reply, {"Server-Timing": ", ".join(filter(None, [reply.headers.get("Server-Timing", ""), total]))})

    async def _answer(self, task: str, model: str, request: Request) -> Reply:
        try:
            version = await self._references.resolve(model)
            media_type = accepted(request.headers.get("accept", ""))
            if media_type is None:
                offered = "Accept application/json, application/x-nifti or application/x-nrrd"
                return problem(HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", offered)
            async with self._received(request) as body, asyncio.timeout(self._settings.timeout_s):
                return await self._ask(str(version), task, body, media_type)
        except MedrayError as error:
            return refusal(error)
        except TimeoutError:
            said = f"no answer within {self._settings.timeout_s:g} s: try again later, or send less"
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "time-out", said, BUSY)

    async def _ask(self, version: str, task: str, body: bytes, media_type: str) -> Reply:
        handle = self._pool.options(multiplexed_model_id=version)
        for _ in range(ATTEMPTS):
            try:
                reply: Reply = await handle.answer.remote(version, task, body, media_type)
            except (BackPressureError, DeploymentUnavailableError):
                break
            except RayActorError:
                continue
            return reply
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "all replicas are busy: try again", BUSY)

    @asynccontextmanager
    async def _received(self, request: Request) -> AsyncIterator[bytes]:
        """Receive a body, once there is room for what its header declares: as much as it may have where it declares nothing."""
        most, header = self._settings.max_body_mb << 20, request.headers.get("content-length", "")
        declared = int(header) if header.isdecimal() else most
        too_large = ImageError("too-large", f"a body may have at most {self._settings.max_body_mb} MiB")
        if declared > most:
            raise too_large
        async with self._bodies.hold(declared):
            chunks, size = [], 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > declared:
                    raise too_large
                chunks.append(chunk)
            if not size:
                raise ImageError("empty-body", "the body is empty: send the image's bytes")
            yield b"".join(chunks)

    async def _warm(self, version: ModelVersion) -> None:
        try:
            await self._pool.options(multiplexed_model_id=str(version)).warm.remote(str(version))
        except RayActorError:
            raise ResourceError(f"{version} isn't loaded yet: try again") from None

    async def _describe(self, model: str) -> dict[str, Any]:
        version = await self._references.resolve(model)
        return describe(version, await asyncio.to_thread(self._registry.card, version))
