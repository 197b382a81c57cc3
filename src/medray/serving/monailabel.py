"""MONAI Label's protocol under ``/monailabel``, as its plug-ins of 3D Slicer and OHIF speak it: its routes, and whose they are.

After the routes of MONAI Label 0.8.5 and what its clients do with the answers. Slicer follows no redirects, so that routes end
as they are called, and asks ``/auth/`` before each request.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request

from medray import __version__
from medray.serving.auth import Role
from medray.serving.desk import Desk
from medray.serving.errands import Errands
from medray.serving.guard import Guard
from medray.serving.monailabel_datastore import Datastore
from medray.serving.monailabel_models import Models
from medray.serving.monailabel_tasks import KINDS, Tasks
from medray.serving.results import JSON, SEGMENTATION
from medray.serving.sessions import Sessions
from medray.serving.traffic import Traffic
from medray.serving.v1 import ANSWERS, REFUSALS
from medray.serving.worklist import Worklist

__all__ = ["monailabel"]

WHOLE_SLIDE = ("wsi", "wsi_v2")
BINARY = {"type": "string", "format": "binary"}
TEXT = {"type": "string"}


def monailabel(
    desk: Desk, guard: Guard, errands: Errands, sessions: Sessions, shown: Worklist | None, traffic: Traffic
) -> APIRouter:
    """Make the routes.

    Args:
        desk: Who has images answered.
        guard: Who asks.
        errands: Who does long work.
        sessions: Images that are kept.
        shown: The cohort that is shown, if there is one.
        traffic: Shares requests out among a model's versions.
    """
    door, tasks = Door(desk, guard), Tasks(desk, errands, shown)
    models, store = Models(desk, sessions, shown, traffic), Datastore(desk, shown)
    table: list[tuple[str, str, Callable[..., Any], Role | None, dict[str, Any]]] = [
        ("GET", "/", door.alive, None, {}),
        ("GET", "/auth/", door.auth, None, {}),
        ("POST", "/auth/token", door.token, None, _takes("application/x-www-form-urlencoded", password=TEXT, username=TEXT)),
        ("GET", "/auth/token/valid", door.valid, Role.VIEWER, {}),
        ("GET", "/info/", models.info, Role.VIEWER, {}),
        *(("POST", f"/infer/{kind}/{{model:path}}", models.whole_slide, Role.ANNOTATOR, _object()) for kind in WHOLE_SLIDE),
        (
            "POST",
            "/infer/{model:path}",
            models.infer,
            Role.ANNOTATOR,
            _form(file=BINARY, label=BINARY) | _gives("multipart/form-data"),
        ),
        ("PUT", "/session/", models.open_session, Role.ANNOTATOR, _form(files=BINARY)),
        ("GET", "/session/{session}", models.session, Role.VIEWER, _gives()),
        ("DELETE", "/session/{session}", models.close_session, Role.VIEWER, {}),
        ("POST", "/activelearning/{strategy}", store.next_sample, Role.ANNOTATOR, _object()),
        ("GET", "/datastore/", store.listed, Role.VIEWER, {}),
        ("PUT", "/datastore/", store.add_image, Role.ANNOTATOR, _form(file=BINARY)),
        ("PUT", "/datastore/image", store.add_image, Role.ANNOTATOR, _form(file=BINARY)),
        ("GET", "/datastore/image", store.image, Role.VIEWER, _gives()),
        ("HEAD", "/datastore/image", store.image, Role.VIEWER, _gives()),
        ("GET", "/datastore/image/info", store.image_info, Role.VIEWER, {}),
        ("PUT", "/datastore/label", store.save_label, Role.ANNOTATOR, _form(label=BINARY)),
        ("GET", "/datastore/label", store.label, Role.VIEWER, _gives()),
        ("HEAD", "/datastore/label", store.label, Role.VIEWER, _gives()),
        ("DELETE", "/datastore/label", store.withdraw, Role.REVIEWER, {}),
        ("GET", "/datastore/label/info", store.label_info, Role.VIEWER, {}),
        ("PUT", "/datastore/label/info", store.amend, Role.REVIEWER, _form(info=TEXT)),
        (
            "PUT",
            "/datastore/updatelabelinfo",
            store.amend,
            Role.REVIEWER,
            _takes("application/x-www-form-urlencoded", params=TEXT),
        ),
        ("GET", "/datastore/dataset", store.dataset, Role.REVIEWER, _gives()),
        ("POST", "/train/", tasks.train_each, Role.OPERATOR, _object()),
        ("POST", "/train/{model:path}", tasks.train, Role.OPERATOR, _object()),
        ("POST", "/scoring/{model:path}", tasks.score, Role.OPERATOR, _object()),
        ("POST", "/batch/infer/{model:path}", tasks.batch, Role.OPERATOR, _object()),
        *(("GET", f"/{kind}/", tasks.status_of(kind), Role.VIEWER, {}) for kind in KINDS),
        *(("DELETE", f"/{kind}/", tasks.end_of(kind), Role.OPERATOR, {}) for kind in KINDS),
        ("GET", "/model/info/{model:path}", tasks.model_info, Role.VIEWER, {}),
        ("GET", "/model/{model:path}", tasks.weights, Role.OPERATOR, _gives()),
        ("GET", "/logs/", tasks.logs, Role.OPERATOR, _gives("text/plain")),
        ("GET", "/logs/gpu", tasks.gpu, Role.OPERATOR, _gives("text/plain")),
    ]
    routes = APIRouter(prefix="/monailabel", tags=["MONAI Label"])
    for verb, path, answer, role, about in table:
        may = [Depends(guard.needs(role))] if role else []
        told = {
            **(ANSWERS if "openapi_extra" in about else REFUSALS),
            200: {"description": "The answer."},
            **about.get("responses", {}),
        }
        routes.add_api_route(
            path,
            answer,
            methods=[verb],
            dependencies=may,
            **{**about, "responses": told},
            operation_id=f"monailabel {verb} {path}",
        )
    return routes


class Door:
    """Answers about tokens.

    Args:
        desk: Receives bodies.
        guard: Who asks.
    """

    def __init__(self, desk: Desk, guard: Guard) -> None:
        self._desk = desk
        self._guard = guard

    async def alive(self) -> dict[str, str]:
        """Say that somebody is here."""
        return {"name": "medray", "version": __version__}

    async def auth(self) -> dict[str, Any]:
        """Say whether a token is needed; asked before every request."""
        return {"enabled": self._guard.asks, "client_id": "medray", "realm": "medray"}

    async def token(self, request: Request) -> dict[str, str]:
        """Take a token as the password of any user name, and give it back if it is good: viewers log in no other way."""
        async with self._desk.received(request, empty=True) as body:
            given = dict(parse_qsl(body.decode("utf-8", "replace"))).get("password", "")
        request.state.principal = await self._guard.check(given, request)
        return {"access_token": given, "token_type": "bearer"}

    async def valid(self, request: Request) -> dict[str, Any]:
        """Say whose token it is."""
        principal = request.state.principal
        return {"username": principal.name, "roles": [f"monailabel-{principal.role.name.lower()}"]}


def _takes(media_type: str, **fields: dict[str, str]) -> dict[str, Any]:
    """Describe a body."""
    return {"openapi_extra": {"requestBody": {"content": {media_type: {"schema": {"type": "object", "properties": fields}}}}}}


def _form(**fields: dict[str, str]) -> dict[str, Any]:
    return _takes("multipart/form-data", params=TEXT, **fields)


def _object() -> dict[str, Any]:
    return _takes(JSON)


def _gives(media_type: str = "application/octet-stream") -> dict[str, Any]:
    """Describe an answer that need not be JSON."""
    content: dict[str, Any] = {media_type: {}, JSON: {}, "application/octet-stream": {}, SEGMENTATION: {}}
    return {"responses": {200: {"description": "The answer.", "content": content}}}
