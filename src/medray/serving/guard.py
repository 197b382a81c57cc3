"""Every request passes here: who asks and whether they may, how often, and a line in the audit trail for each."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medray.audit import Event, open_trail
from medray.errors import StorageError
from medray.serving.auth import ANYBODY, Principal, Refusal, Role, Tokens
from medray.serving.monailabel_ohif import ROOT as OHIF

__all__ = ["Guard", "Ledger", "Rate", "Watched", "require"]

CALLERS = 10_000
UNSEEN = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json", "/", "/monailabel/", "/monailabel/auth/"})
"""Paths of which the trail says nothing: probes, and what says nothing of anybody."""
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
}
PAGES = ("/pages/", OHIF)
"""Below them lie scripts and styles: the same for everybody, unseen by the trail, too."""
POLICY = (
    b"default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    b"worker-src 'self' blob:; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
DOCS_POLICY = POLICY.replace(b"script-src 'self'", b"script-src 'self' 'unsafe-inline'")
"""Swagger UI's page starts itself by a script within it."""
BEARER = HTTPBearer(auto_error=False, description="From `medray serve --make-token`, or of the OpenID Connect issuer.")
"""Says in the OpenAPI page what is asked for; whether it is there is looked at here."""
TLS_HEADER = (b"strict-transport-security", b"max-age=31536000")


class Rate:
    """How often each caller may ask: so many requests a second, and as many at once after a pause.

    Args:
        per_second: 0 for any number.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, caller: str) -> None:
        """Count one request.

        Raises:
            Refusal: 429, if it is one too many.
        """
        if not self._per_second:
            return
        now = time.monotonic()
        left, since = self._left.pop(caller, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_second)
        self._left[caller] = (max(0.0, left - 1), now)
        if len(self._left) > CALLERS:
            self._left.popitem(last=False)
        if left < 1:
            wait = str(max(1, round((1 - left) / self._per_second)))
            why = f"more than {self._per_second:g} requests a second: wait"
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests", why, {"Retry-After": wait})


class Guard:
    """Asks who asks.

    Args:
        tokens: Who checks tokens; None lets anybody in.
        rate: How often they may ask.
    """

    def __init__(self, tokens: Tokens | None, rate: Rate) -> None:
        self._tokens = tokens
        self._rate = rate

    @property
    def asks(self) -> bool:
        """Whether a token is needed."""
        return self._tokens is not None

    async def check(self, token: str, connection: HTTPConnection) -> Principal:
        """Return whose token it is; wrong ones count against the address that they come from.

        Raises:
            Refusal: 401 or 429.
        """
        if self._tokens is None:
            return ANYBODY
        try:
            if not token:
                why = "send a bearer token: Authorization: Bearer …"
                raise Refusal(HTTPStatus.UNAUTHORIZED, "unauthorized", why, {"WWW-Authenticate": "Bearer"})
            return await self._tokens.check(token)
        except Refusal:
            self._rate.spend(connection.client.host if connection.client else "")  # who guesses has no name yet
            raise

    def needs(self, role: Role) -> Callable[..., Awaitable[Principal]]:
        """Return a FastAPI dependency that lets those with at least this role pass."""

        async def check(connection: HTTPConnection, _: Annotated[object, Depends(BEARER)]) -> Principal:
            principal = await self._principal(connection)
            connection.state.principal = principal
            self._rate.spend(principal.name)
            require(principal, role)
            return principal

        return check

    async def _principal(self, connection: HTTPConnection) -> Principal:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        return await self.check(token.strip() if scheme.lower() == "bearer" else "", connection)


def require(principal: Principal, role: Role) -> None:
    """Check that somebody has at least this role.

    Raises:
        Refusal: 403.
    """
    if principal.role < role:
        has, must = principal.role.name.lower(), role.name.lower()
        raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", f"this needs the role {must}, and the token carries {has}")


class Ledger:
    """Writes audit events: those that come together in one transaction, and nobody goes on before theirs is there.

    Args:
        record: Writes some events, such as a trail's.
    """

    def __init__(self, record: Callable[[Iterable[Event]], None] | None = None) -> None:
        self._record = record or (lambda events: open_trail().record(events))
        self._new: list[tuple[Event, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, event: Event) -> None:
        """Write one event.

        Raises:
            StorageError: If it can't be written.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._new.append((event, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        await done

    async def _write_all(self) -> None:
        while self._new:
            batch, self._new = self._new, []
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._record, [event for event, _ in batch])
            except Exception as failure:  # noqa: BLE001 - whoever waits for it is told
                error = failure
            for _, done in batch:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)


class Watched:
    """ASGI middleware: an audit event for each request, before its reply begins; and headers that keep browsers careful.

    Args:
        app: What answers.
        ledger: Where events go.
        unrecorded: Answers instead when an event can't be written.
        tls: Whether browsers are to be told never to come without TLS.
    """

    def __init__(self, app: ASGIApp, ledger: Ledger, unrecorded: ASGIApp, *, tls: bool = False) -> None:
        self._app = app
        self._ledger = ledger
        self._unrecorded = unrecorded
        self._tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        lost = False

        async def watched(message: Message) -> None:
            nonlocal lost
            if message["type"] == "http.response.start" and not _unseen(scope["path"]):
                lost = not await self._recorded(scope, message)
                if lost:
                    await self._unrecorded(scope, receive, send)
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers(scope["path"])]
            if not lost:
                await send(message)

        return await self._app(scope, receive, watched)

    async def _recorded(self, scope: Scope, message: Message) -> bool:
        try:
            await self._ledger.write(_event(scope, message))
        except StorageError:
            return False
        return True

    def _headers(self, path: str) -> list[tuple[bytes, bytes]]:
        policy = DOCS_POLICY if path == "/docs" else POLICY
        return [*HEADERS.items(), (b"content-security-policy", policy), *([TLS_HEADER] if self._tls else [])]


def _unseen(path: str) -> bool:
    return path in UNSEEN or path.startswith(PAGES)


def _event(scope: Scope, message: Message) -> Event:
    """Say who did what and how it ended. Of the path only its pattern: what else is in it, anybody may have written."""
    state: dict[str, Any] = scope.get("state", {})
    principal: Principal | None = state.get("principal")
    route = scope.get("route")
    headers = dict(message["headers"])
    target = headers.get(b"x-medray-model", b"").decode() or getattr(route, "path", "unknown")
    return Event(
        action=f"http.{scope['method'].lower()}",
        target=target,
        outcome=str(message["status"]),
        detail=getattr(route, "path", ""),
        actor=principal.name if principal else "unknown",
    )
