"""MONAI Label's datastore: the cohort that the endpoint shows, and labels that are added and never overwritten."""

import asyncio
import hashlib
import json
import os
import random
import tempfile
import time
import zipfile
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from fastapi import Request, Response
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from medray.annotation.store import FINAL, LabelStore, Status, Version
from medray.cohort.manifest import SeriesRow
from medray.errors import InputError, NotFoundError
from medray.formats.nrrd import write_nrrd
from medray.serving.desk import Desk
from medray.serving.form import json_of, media_type_of, parts_of
from medray.serving.monailabel_models import ASSIGNED, STRATEGIES
from medray.serving.results import Reply
from medray.serving.v1 import respond
from medray.serving.worklist import Worklist

__all__ = ["Datastore", "required"]

EXTENSION = ".nrrd"
DECISIONS: Mapping[str, Status] = {"approved": "approved", "flagged": "rejected"}
"""What Slicer's plug-in for reviewers says of a label, and what that makes it; of a cohort, rejected labels are left out."""


class Datastore:
    """Answers about images and labels.

    Args:
        desk: Receives bodies.
        shown: The cohort that is shown, if there is one.
    """

    def __init__(self, desk: Desk, shown: Worklist | None) -> None:
        self._desk = desk
        self._shown = shown

    async def next_sample(self, strategy: str, request: Request) -> dict[str, Any]:
        """Choose the next image to label; an empty object where all are."""
        if strategy not in STRATEGIES:
            raise NotFoundError(f"strategy {strategy[:40]!r} is unknown: use one of {', '.join(STRATEGIES)}")
        return await asyncio.to_thread(_next, self._worklist, strategy, request.state.principal.name)

    async def listed(self, output: str = "stats") -> Any:
        """List images and labels: all of them, those that may be trained on, or how many there are."""
        return await asyncio.to_thread(_listed, self._worklist, output)

    async def add_image(self, request: Request, image: str = "") -> dict[str, str]:
        """Take an image into the cohort, under a pseudonym of the name that it is given."""
        worklist = self._worklist
        async with self._desk.received(request) as body:
            parts = await asyncio.to_thread(parts_of, body, _kind(request))
            file = next((part for part in parts if part.name == "file"), None)
            if file is None or not (image or file.filename):
                raise InputError("send the image as file of the form, and its name as image=")
            row = await asyncio.to_thread(worklist.add, image or file.filename.split(".")[0], file.data)
        return {"image": row.series}

    async def image(self, image: str, check_sum: str = "") -> Response:
        """Give an image as NRRD; with ``check_sum``, 404 where it is another one."""
        row = await asyncio.to_thread(self._worklist.find, image)
        data = await asyncio.to_thread(self._worklist.nrrd, row)
        if check_sum and check_sum.partition(":")[2].lower() != hashlib.sha256(data).hexdigest():
            raise NotFoundError("the image has another checksum")
        return _file(data, f"{row.series}{EXTENSION}")

    async def image_info(self, image: str) -> dict[str, Any]:
        """Describe an image."""
        return _image_info(await asyncio.to_thread(self._worklist.find, image))

    async def save_label(self, request: Request, image: str, tag: str = "") -> dict[str, Any]:
        """Take a label map in: a further version, whatever was there."""
        worklist, annotator = self._worklist, request.state.principal.name
        async with self._desk.received(request) as body:
            fields = {part.name: part for part in await asyncio.to_thread(parts_of, body, _kind(request))}
            if "label" not in fields:
                raise InputError("send the label map as label of the form")
            facts = dict(json_of(fields["params"].data if "params" in fields else b"", "params"))
            row = await asyncio.to_thread(worklist.find, image)
            kept = await asyncio.to_thread(worklist.submit, row, tag or FINAL, annotator, fields["label"].data, facts)
        return {"image": row.series, "label": row.series, "tag": kept.label.tag, "version": kept.number}

    async def label(self, request: Request, label: str = "", tag: str = "", image: str = "") -> Response:
        """Give the newest label map of a tag as NRRD; in a project, the caller's own."""
        row = await asyncio.to_thread(self._worklist.find, label or image)
        found, _ = await asyncio.to_thread(self._worklist.label, row, tag or FINAL, request.state.principal.name)
        return _file(await asyncio.to_thread(write_nrrd, found), f"{row.series}{EXTENSION}")

    async def withdraw(self, request: Request, id: str, tag: str = FINAL) -> dict[str, Any]:  # noqa: A002 - the protocol's name
        """Take a label map back; it stays stored."""
        worklist = self._worklist
        row = await asyncio.to_thread(worklist.find, id)
        await asyncio.to_thread(worklist.labels.withdraw, row.series, tag, request.state.principal.name)
        return {}

    async def label_info(self, label: str, tag: str = FINAL) -> dict[str, Any]:
        """Say what is known of a label map."""
        row = await asyncio.to_thread(self._worklist.find, label)
        _, found = await asyncio.to_thread(self._worklist.label, row, tag)
        return dict(found.facts) if found else {}

    async def amend(self, request: Request, label: str, tag: str = FINAL) -> dict[str, Any]:
        """Say something of a label map, such as that it is approved: a further version of what is known."""
        worklist = self._worklist
        async with self._desk.received(request) as body:
            facts = _said(request, body)
        row = await asyncio.to_thread(worklist.find, label)
        done = await asyncio.to_thread(_amended, worklist.labels, row.series, tag, request.state.principal.name, facts)
        return dict(done.facts)

    async def dataset(self, limit_cases: int = 50) -> Response:
        """Give labelled images and their labels as a zip."""
        packed = await asyncio.to_thread(_zipped, self._worklist, max(1, limit_cases))
        gone = BackgroundTask(Path(packed).unlink, missing_ok=True)
        return FileResponse(packed, filename="dataset.zip", media_type="application/octet-stream", background=gone)

    @property
    def _worklist(self) -> Worklist:
        return required(self._shown)


def required(shown: Worklist | None) -> Worklist:
    """Return the cohort that is shown.

    Raises:
        NotFoundError: If there is none.
    """
    if shown is None:
        raise NotFoundError("this endpoint shows no cohort: serve one with --set cohort=ROOT")
    return shown


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "")


def _said(request: Request, body: bytes) -> Mapping[str, Any]:
    """Read what is said of a label: a form's ``params`` or ``info``, or JSON."""
    kind = media_type_of(_kind(request))
    if kind.startswith("multipart/"):
        words = {part.name: part.data for part in parts_of(body, _kind(request))}
    elif kind == "application/x-www-form-urlencoded":
        words = {name: value.encode() for name, value in parse_qsl(body.decode("utf-8", "replace"))}
    else:
        words = {"info": body}
    return json_of(words.get("params") or words.get("info") or b"", "params")


def _amended(labels: LabelStore, series: str, tag: str, actor: str, facts: Mapping[str, Any]) -> Version:
    """Say something of the newest label of a tag; what the reviewers' plug-in calls approved or flagged decides on it."""
    last = labels.latest(series, tag)
    return labels.amend(last.label, actor, facts, status=DECISIONS.get(str(facts.get("status", "")).lower()))


def _next(worklist: Worklist, strategy: str, annotator: str) -> dict[str, Any]:
    row = worklist.next_of(annotator) if strategy == ASSIGNED else _unlabelled(worklist, strategy)
    if row is None:
        return {}
    digest = hashlib.sha256(worklist.nrrd(row)).hexdigest()
    return {
        **_image_info(row),
        "id": row.series, "weight": 1, "path": "", "ts": int(time.time()), "strategy": strategy, "checksum": f"SHA256:{digest}",
    }  # fmt: skip


def _unlabelled(worklist: Worklist, strategy: str) -> SeriesRow | None:
    tags = worklist.tags()
    left = [row for row in worklist.cohort.rows if FINAL not in tags.get(row.series, ())]
    if not left:
        return None
    return left[0] if strategy == "first" else random.choice(left)  # noqa: S311 - an order of work, no secret


def _image_info(row: SeriesRow) -> dict[str, Any]:
    return {
        "name": f"{row.series}{EXTENSION}",
        "PatientID": row.subject,
        "StudyInstanceUID": row.study,
        "SeriesInstanceUID": row.series,
        "Modality": row.modality,
        "shape": list(row.shape),
        "spacing_mm": list(row.spacing_mm),
    }


def _listed(worklist: Worklist, output: str) -> Any:
    rows, tags = worklist.cohort.rows, worklist.tags()
    if output == "all":
        labels = worklist.labels.current()
        objects = {row.series: _object_of(row, tags.get(row.series, []), labels) for row in rows}
        about = {"name": "medray", "description": f"cohort {worklist.cohort.index.id}", "images_dir": "", "labels_dir": ""}
        return {**about, "objects": objects}
    if output == "train":
        here = "datastore/{}?{}={}"
        return [
            {"image": here.format("image", "image", row.series), "label": here.format("label", "label", row.series)}
            for row in rows
            if FINAL in tags.get(row.series, ())
        ]
    return {**worklist.counts(), "train": []}


def _object_of(row: SeriesRow, tags: list[str], labels: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    facts = {tag: dict(labels[row.series, tag].facts) if (row.series, tag) in labels else {} for tag in tags}
    kept = {tag: {"info": {"name": f"{row.series}{EXTENSION}", **said}, "ext": EXTENSION} for tag, said in facts.items()}
    return {"image": {"info": _image_info(row), "ext": EXTENSION}, "labels": kept}


def _zipped(worklist: Worklist, most: int) -> str:
    """Write a file, which is its owner's alone, and return its path."""
    tags = worklist.tags()
    descriptor, packed = tempfile.mkstemp(suffix=".zip")
    rows = [row for row in worklist.cohort.rows if FINAL in tags.get(row.series, ())][:most]
    with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for row in rows:
            archive.writestr(f"{row.series}{EXTENSION}", write_nrrd(worklist.volume(row)))
            archive.writestr(f"labels/{FINAL}/{row.series}{EXTENSION}", write_nrrd(worklist.label(row, FINAL)[0]))
        archive.writestr("datastore_v2.json", json.dumps(_listed(worklist, "all")))
    return packed


def _file(data: bytes, filename: str) -> Response:
    headers = {"Content-Disposition": f"attachment; filename=\"{filename}\"; filename*=utf-8''{quote(filename)}"}
    return respond(Reply(HTTPStatus.OK, "application/octet-stream", data, headers))
