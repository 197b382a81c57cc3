"""The gateway: the one HTTP endpoint. No image is decoded here, and no network known."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from medray import __version__
from medray.errors import MedrayError, StorageError
from medray.monitoring.metrics import Meters
from medray.registry.registry import Registry
from medray.serving.auth import LocalTokens, OidcTokens, Refusal, Tokens, keys_url_of, signing_key
from medray.serving.clerk import Clerk
from medray.serving.courier import Courier, pacs_of, spool_of
from medray.serving.desk import Desk, Limits
from medray.serving.dicomweb import dicomweb
from medray.serving.errands import Errands
from medray.serving.guard import Guard, Ledger, Rate, Watched
from medray.serving.images import images
from medray.serving.jobs import Docket
from medray.serving.labels import labels
from medray.serving.monailabel import monailabel
from medray.serving.monailabel_ohif import ohif
from medray.serving.orders import OrderBook
from medray.serving.projects import Office, projects
from medray.serving.reading_room import reading_room
from medray.serving.results import problem, refusal
from medray.serving.sentinel import Sentinel
from medray.serving.sessions import Sessions
from medray.serving.track import track
from medray.serving.traffic import Traffic
from medray.serving.upkeep import Upkeep
from medray.serving.v1 import jobs, respond, v1
from medray.serving.worklist import Worklist

__all__ = ["Doors", "Gateway", "Worker", "web"]


class Worker(Protocol):
    """Works beside requests."""

    async def run(self) -> None:
        """Work until cancelled."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Who may come in.

    Attributes:
        insecure: Anybody.
        issuer: Of OpenID Connect tokens; local ones where it is empty.
        audience: Of its tokens.
        keys_url: Of its keys; asked of the issuer where it is empty.
        roles_claim: Of its tokens.
        rate: Requests a second of each caller; 0 for any number.
        origins: Web pages of other origins that may ask (CORS).
        tls: Whether the endpoint speaks TLS.
    """

    insecure: bool = False
    issuer: str = ""
    audience: str = "medray"
    keys_url: str = ""
    roles_claim: str = "roles"
    rate: float = 0
    origins: tuple[str, ...] = field(default_factory=tuple)
    tls: bool = False

    def tokens(self) -> Tokens | None:
        """Return who checks tokens, or None for nobody.

        Raises:
            ConfigError: If there is no key for local tokens, or the issuer doesn't say where its keys are.
        """
        if self.insecure:
            return None
        if self.issuer:
            return OidcTokens(self.issuer, self.audience, self.keys_url or keys_url_of(self.issuer), self.roles_claim)
        return LocalTokens(signing_key())


def web(desk: Desk, doors: Doors, ledger: Ledger, *beside: Worker) -> FastAPI:
    """Make the web application, which has workers beside those that requests need."""
    docket, sessions, errands = Docket(desk.limits.jobs), Sessions(desk.limits.jobs), Errands(desk.registry.uri)
    shown = Worklist(desk.limits.cohort) if desk.limits.cohort else None
    guard, traffic = Guard(doors.tokens(), Rate(doors.rate)), Traffic(desk)
    clerk = Clerk(docket, traffic, desk.limits.keep_answers_s)
    pacs, spool = pacs_of(desk.limits), spool_of(desk.limits)
    book = OrderBook(spool.name if spool else "")
    courier = Courier(spool, book, desk, traffic, pacs, ledger) if spool and pacs else None

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        work = [asyncio.create_task(worker.run()) for worker in (clerk, sessions, courier, *beside) if worker]
        yield
        await errands.close()
        for worker in work:
            worker.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    about = "Medical image analysis. Research use only."
    app = FastAPI(title="medray", version=__version__, description=about, docs_url=None, redoc_url=None, lifespan=working)
    app.include_router(reading_room())
    app.include_router(v1(desk, guard, clerk, traffic))
    app.include_router(track(desk, guard, shown, clerk))
    app.include_router(images(desk, guard, shown))
    app.include_router(jobs(docket, guard))
    office = Office(shown)
    app.include_router(projects(desk, guard, office))
    app.include_router(labels(desk, guard, office))
    app.include_router(dicomweb(desk, guard, spool, book, pacs))
    if desk.limits.ohif:
        app.include_router(ohif(desk.limits.ohif))
    app.include_router(monailabel(desk, guard, errands, sessions, shown, traffic))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the gateway lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Say that the models which are kept loaded are; waits for those that aren't."""
        await desk.ready()
        return {"status": "ready"}

    _say_problems(app)
    unrecorded = respond(refusal(StorageError("the audit trail can't be written, and nothing is answered without it")))
    app.add_middleware(Watched, ledger=ledger, unrecorded=unrecorded, tls=doors.tls)
    if doors.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(doors.origins), allow_methods=["*"], allow_headers=["*"], allow_credentials=True
        )
    return app


def _say_problems(app: FastAPI) -> None:
    """Have every refusal said as a problem."""

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        return respond(problem(error.status_code, "refused", str(error.detail)))

    @app.exception_handler(RequestValidationError)
    async def on_field(request: Request, error: RequestValidationError) -> Response:
        fields = ", ".join(".".join(map(str, item["loc"][1:])) for item in error.errors())
        return respond(problem(HTTPStatus.UNPROCESSABLE_ENTITY, "bad-field", f"these fields aren't understood: {fields[:200]}"))

    @app.exception_handler(Refusal)
    @app.exception_handler(MedrayError)
    async def on_refusal(request: Request, error: MedrayError | Refusal) -> Response:
        return respond(refusal(error))


@serve.deployment(max_ongoing_requests=1024)
@serve.ingress()
class Gateway:
    """The Serve deployment of `web`.

    Args:
        pool: Who answers.
        registry: MLflow tracking URI.
        limits: What may be asked for.
        doors: Who may come in.
    """

    def __init__(self, pool: DeploymentHandle[Any], registry: str, limits: Limits, doors: Doors) -> None:
        self._meters = Meters()
        self._desk = Desk(pool, Registry(registry), limits, self._meters)
        self._doors = doors

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Make what answers; called by Serve."""
        sentinel = Sentinel(self._desk, self._desk.limits.records, self._desk.limits.watch_s, self._meters)
        return web(self._desk, self._doors, Ledger(), sentinel, Upkeep(self._desk))

    async def ready(self) -> None:
        """Wait until the models that are kept loaded are."""
        await self._desk.ready()
