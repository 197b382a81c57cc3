"""MONAI Label's long tasks, as medray's own commands: training, scoring, a model on many images; a model's files and logs."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from starlette.responses import FileResponse

from medray import config
from medray.annotation.store import FINAL
from medray.cohort.manifest import SeriesRow
from medray.errors import NotFoundError
from medray.preprocessing.plan import Plan
from medray.registry.version import ModelVersion
from medray.serving.desk import Desk
from medray.serving.errands import Errand, Errands
from medray.serving.form import json_of
from medray.serving.monailabel_datastore import required
from medray.serving.monailabel_models import TRAINING
from medray.serving.results import SEGMENTS
from medray.serving.sources import Reference
from medray.serving.worklist import Worklist

__all__ = ["KINDS", "Tasks"]

KINDS = ("train", "scoring", "batch/infer")
ORIGINAL = "original"
"""The tag of a model's label, which nobody has looked at."""
CHOSEN: dict[str, Callable[[Collection[str]], bool]] = {
    "all": lambda tags: True,
    "labeled": lambda tags: FINAL in tags,
    "unlabeled": lambda tags: FINAL not in tags,
}


class Tasks:
    """Starts, follows and ends long tasks, one of a kind at a time.

    Args:
        desk: Who has images answered.
        errands: Who does the work.
        shown: The cohort that is shown, if there is one.
    """

    def __init__(self, desk: Desk, errands: Errands, shown: Worklist | None) -> None:
        self._desk = desk
        self._errands = errands
        self._shown = shown

    async def train_each(self, request: Request) -> dict[str, Any]:
        """Train one model; the older form of the request: an object with the model's name as its key."""
        model, params = next(iter((await self._said(request)).items()), ("", {}))
        started = await self._train(model, params if isinstance(params, dict) else {})
        return {model: {"result": started.plain(), "detail": ""}}

    async def train(self, model: str, request: Request) -> dict[str, Any]:
        """Train a new version of a model on the cohort with the final labels: export, prepare, fit."""
        return (await self._train(model, await self._said(request))).plain()

    async def score(self, model: str) -> dict[str, Any]:
        """Score a model on the cohort's held-out subjects."""
        version, root = await self._desk.resolve(model), required(self._shown).uri
        return self._errands.start("scoring", {"model": model}, [["evaluate", str(version), root]]).plain()

    async def batch(self, model: str, request: Request, images: str = "all") -> dict[str, Any]:
        """Have a model label many images: all, labeled or unlabeled ones; its labels are ``original`` ones, never final."""
        if images not in CHOSEN:
            raise NotFoundError(f"images {images[:40]!r} is unknown: use one of {', '.join(CHOSEN)}")
        params = await self._said(request)
        version, worklist = await self._desk.resolve(model), required(self._shown)
        tags = await asyncio.to_thread(worklist.tags)
        rows = [row for row in worklist.cohort.rows if CHOSEN[images](tags.get(row.series, []))]

        async def run(errand: Errand) -> None:
            for number, row in enumerate(rows, start=1):
                status = await self._labelled(version, row, params)
                errand.lines.append(f"{number} of {len(rows)}: {row.series} {status}")

        return self._errands.go("batch/infer", {"model": model, "images": images, **params}, run).plain()

    def status_of(self, kind: str) -> Callable[..., Any]:
        """Return the route that tells of a task."""

        async def status(check_if_running: bool = False) -> dict[str, Any]:
            """Say how a task is doing; 404 where there is none, or none that runs."""
            found = self._errands.get(kind)
            if found is None or (check_if_running and found.status != "RUNNING"):
                raise NotFoundError(f"no {kind} is running")
            return found.plain()

        return status

    def end_of(self, kind: str) -> Callable[..., Any]:
        """Return the route that ends a task."""

        async def end() -> dict[str, Any]:
            """End a task."""
            found = await self._errands.stop(kind)
            if found is None:
                raise NotFoundError(f"no {kind} is running")
            return found.plain()

        return end

    async def model_info(self, model: str) -> dict[str, Any]:
        """Say when a model was made, and how good it was."""
        version = await self._desk.resolve(model)
        card = await self._desk.card(version)
        scores = {split: dict(found) for split, found in card.scores.items()}
        return {"model": str(version), "modified_time": card.created, "scores": scores}

    async def weights(self, model: str) -> Response:
        """Give a model's weights as safetensors."""
        version = await self._desk.resolve(model)
        folder = await asyncio.to_thread(self._desk.registry.fetch, version)
        return FileResponse(folder / "weights.safetensors", filename=f"{version.name}-{version.version}.safetensors")

    async def logs(self, lines: int = 300) -> Response:
        """Say what the last tasks said."""
        found = [errand for kind in KINDS if (errand := self._errands.get(kind))]
        said = [line for errand in found for line in errand.lines][-max(1, lines) :]
        return Response("\n".join(said), media_type="text/plain")

    async def gpu(self) -> Response:
        """Say what nvidia-smi does."""
        return Response(await asyncio.to_thread(_gpu), media_type="text/plain")

    async def _said(self, request: Request) -> Mapping[str, Any]:
        async with self._desk.received(request, empty=True) as body:
            return json_of(body, "the body")

    async def _train(self, model: str, params: Mapping[str, Any]) -> Errand:
        version, worklist = await self._desk.resolve(model), required(self._shown)
        card = await self._desk.card(version)
        place = config.home() / "monailabel" / f"{version.name}-{time.time_ns()}"
        commands = _training(version, worklist.uri, place, params)
        await asyncio.to_thread(_write_plan, place, card.recipe())
        return self._errands.start("train", {"model": model, **params}, commands)

    async def _labelled(self, version: ModelVersion, row: SeriesRow, params: Mapping[str, Any]) -> int:
        """Have one image labelled, and return the answer's status."""
        said = await self._desk.describe(str(version))
        reply = await self._desk.ask(version, said["task"], Reference(image=row.series), SEGMENTS)
        if reply.status == HTTPStatus.OK and params.get("save_label", True):
            names = [{"name": name, "idx": value} for name, value in said["targets"].items()]
            facts = {"model": str(version), "label_info": names}
            words = (row, str(params.get("label_tag") or ORIGINAL), str(version), reply.body, facts)
            await asyncio.to_thread(required(self._shown).submit, *words)
        return reply.status


def _training(version: ModelVersion, root: str, place: Path, params: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    prepared = str(place / "prepared")
    settings = [word for name, default in TRAINING.items() for word in ("--set", f"{name}={int(params.get(name, default))}")]
    return [
        ["annotate", "export", root],
        ["prepare", root, str(place / "plan.json"), prepared],
        ["fit", prepared, "--name", version.name, *settings],
    ]


def _write_plan(place: Path, plan: Plan) -> None:
    place.mkdir(parents=True)
    (place / "plan.json").write_text(json.dumps(config.dump(plan)), encoding="utf-8")


def _gpu() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no GPU"
    return subprocess.run([program], capture_output=True, text=True, timeout=20, check=False).stdout  # noqa: S603
