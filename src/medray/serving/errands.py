"""Long work that a viewer starts: medray's own commands, one after the other, in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from medray.errors import InputError, MedrayError
from medray.serving.auth import Refusal

__all__ = ["Errand", "Errands"]

LINES = 20
STOP_S = 10.0
LONGEST_LINE = 1 << 24


@dataclass(slots=True)
class Errand:
    """A line of commands, under way or over.

    Attributes:
        request: What was asked for.
        id: Of this errand.
        status: ``RUNNING``, ``DONE``, ``ERROR`` or ``STOPPED``.
        started: Seconds since 1970.
        ended: The same; 0 while it runs.
        lines: The last that the commands said.
    """

    request: Mapping[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "RUNNING"
    started: float = field(default_factory=time.time)
    ended: float = 0.0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    work: asyncio.Task[None] | None = None

    def plain(self) -> dict[str, Any]:
        """Return what MONAI Label's clients are told of a task."""
        return {
            "id": self.id,
            "status": self.status,
            "request": dict(self.request),
            "start_ts": _told(self.started),
            "end_ts": _told(self.ended),
            "details": list(self.lines),
        }


class Errands:
    """One errand of a kind at a time.

    Args:
        registry: MLflow tracking URI that the commands use.
    """

    def __init__(self, registry: str) -> None:
        self._last: dict[str, Errand] = {}
        self._registry = registry

    def get(self, kind: str) -> Errand | None:
        """Return the errand of a kind that runs, or ran last."""
        return self._last.get(kind)

    def start(self, kind: str, request: Mapping[str, Any], commands: Sequence[Sequence[str]]) -> Errand:
        """Run commands of ``medray``, each after the one before it has succeeded.

        Args:
            kind: What is done.
            request: What was asked for.
            commands: Arguments of each.

        Raises:
            Refusal: 429, while another one of this kind runs.
        """

        async def run(errand: Errand) -> None:
            for words in commands:
                await _run(errand, words, self._registry)

        return self.go(kind, request, run)

    def go(self, kind: str, request: Mapping[str, Any], run: Callable[[Errand], Awaitable[None]]) -> Errand:
        """Do what isn't a command, in this process; see `start`.

        Args:
            kind: What is done.
            request: What was asked for.
            run: Does it, and adds to the errand's lines.

        Raises:
            Refusal: 429, while another one of this kind runs.
        """
        known = self._last.get(kind)
        if known is not None and known.status == "RUNNING":
            why = f"{kind} is running already: stop it, or wait"
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "busy", why, {"Retry-After": "30"})
        errand = self._last[kind] = Errand(request)
        errand.work = asyncio.create_task(_follow(errand, run))
        return errand

    async def stop(self, kind: str) -> Errand | None:
        """End what runs of a kind."""
        errand = self._last.get(kind)
        if errand is not None and errand.work is not None and not errand.work.done():
            errand.work.cancel()
            await asyncio.gather(errand.work, return_exceptions=True)
        return errand

    async def close(self) -> None:
        """End all."""
        for kind in self._last:
            await self.stop(kind)


async def _follow(errand: Errand, run: Callable[[Errand], Awaitable[None]]) -> None:
    try:
        await run(errand)
        errand.status = "DONE"
    except asyncio.CancelledError:
        errand.status = "STOPPED"
        raise
    except MedrayError as error:
        errand.status = "ERROR"
        errand.lines.append(str(error))
    except Exception as error:  # noqa: BLE001 - whoever looks is told; nothing of what it was about
        errand.status = "ERROR"
        errand.lines.append(f"failed ({type(error).__name__})")
    finally:
        errand.ended = time.time()


async def _run(errand: Errand, words: Sequence[str], registry: str) -> None:
    """Run one command and keep what it says.

    Raises:
        InputError: If it fails.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "medray", *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        start_new_session=True, env={**os.environ, "MLFLOW_TRACKING_URI": registry}, limit=LONGEST_LINE,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        async for line in process.stdout:
            errand.lines.append(line.decode("utf-8", "replace").rstrip())
        if await process.wait():
            raise InputError(f"medray {words[0]} ended with {process.returncode}")
    finally:
        if process.returncode is None:
            await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a process with its children: first kindly, so that a fit leaves a checkpoint."""
    for word, wait_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, word)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), wait_s)
            return


def _told(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else ""
