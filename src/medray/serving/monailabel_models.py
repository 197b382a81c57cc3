"""MONAI Label's models and sessions: what there is, and what a model says of an image, in the form that viewers read.

Sharp edges of the clients: Slicer reads multipart bodies from the socket, so that a reply has its length and no encoding; it
wants a file in every answer of a model; labels are a table of values, never a list whose order would have to be guessed.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response

from medray import __version__
from medray.errors import InputError, NotFoundError
from medray.serving.auth import Principal
from medray.serving.desk import Desk
from medray.serving.form import Part, compose, json_of, media_type_of, parts_of, zip_of
from medray.serving.results import JSON, NIFTI, SEGMENTATION, SEGMENTS, Reply, told
from medray.serving.sessions import Session, Sessions
from medray.serving.sources import Reference
from medray.serving.traffic import Asked, Traffic
from medray.serving.v1 import WISH, respond
from medray.serving.worklist import Worklist

__all__ = ["ASSIGNED", "STRATEGIES", "TRAINING", "Models"]

KINDS = {"segmentation": "segmentation", "diagnosis": "classification", "detection": "detection"}
"""medray's tasks, and what the clients call them; models of other tasks say nothing of an image."""
STAGES = {
    "pre": ("decode", "preprocess"),
    "infer": ("network",),
    "invert": ("postprocess",),
    "post": (),
    "write": ("encode",),
}
"""What MONAI Label calls the stages of an answer."""
MARKUPS = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
TRAINING = {"epochs": 50, "steps": 100}
ASSIGNED = "assigned"
STRATEGIES = {
    "first": "The first image that has no final label.",
    "random": "Any image that has no final label.",
    ASSIGNED: "The next image that is assigned to you in a project.",
}


class Models:
    """Answers about models.

    Args:
        desk: Who has images answered.
        sessions: Images that are kept.
        worklist: The cohort that is shown, if there is one.
        traffic: Shares requests out among a model's versions.
    """

    def __init__(self, desk: Desk, sessions: Sessions, worklist: Worklist | None, traffic: Traffic) -> None:
        self._desk = desk
        self._traffic = traffic
        self._sessions = sessions
        self._worklist = worklist

    async def info(self) -> dict[str, Any]:
        """Say what there is: models, labels, how many images are labelled."""
        found = {name: await self._desk.describe(name) for name in await self._desk.names()}
        models = {name: _model(said) for name, said in found.items() if said["task"] in KINDS}
        learning = models if self._worklist else {}
        none = {"total": 0, "completed": 0, "label_tags": {}}
        return {
            "name": "medray",
            "description": "Medical image analysis. Research use only.",
            "version": __version__,
            "labels": sorted({label for model in models.values() for label in model["labels"]}),
            "models": models,
            "trainers": {name: {"description": f"A new version of {name}", "config": TRAINING} for name in learning},
            "strategies": {name: {"description": why} for name, why in STRATEGIES.items()} if learning else {},
            "scoring": {name: {"description": f"{name} on held-out subjects"} for name in learning},
            "train_stats": {},
            "datastore": await asyncio.to_thread(self._worklist.counts) if self._worklist else none,
        }

    async def infer(self, model: str, request: Request, image: str = "", session_id: str = "", output: str = "") -> Response:
        """Ask a model about an image: one of the datastore's, a session's, or a file that comes along."""
        started = time.perf_counter()
        version = await self._desk.resolve(model)
        said = await self._desk.describe(str(version))
        if said["task"] not in KINDS:
            raise InputError(f"{model} is for {said['task']} and says nothing of an image")
        async with self._desk.received(request, empty=True) as body:
            fields = await asyncio.to_thread(_fields, request, body)
            params = json_of(fields["params"].data if "params" in fields else b"", "params")
            given = fields["file"].data if "file" in fields else await self._image(request, image, session_id)
            asked = Asked(said["task"], given, _media_type(said["task"], params, output))
            reply = await self._traffic.ask(model, version, asked, request.headers.get(WISH, ""))
        if reply.status != HTTPStatus.OK:
            return respond(reply)
        said = await self._desk.describe(reply.headers.get("X-Medray-Model", str(version)))  # a challenger may have answered
        return _told(reply, said, params, output, time.perf_counter() - started)

    async def whole_slide(self, model: str) -> Response:
        """Say that there are no models for microscopy, as DSA and QuPath ask."""
        raise NotFoundError("no model of this endpoint reads whole slides: ask for scans at /monailabel/infer/MODEL")

    async def open_session(self, request: Request, uncompress: bool = False, expiry: int = 0) -> dict[str, Any]:
        """Keep an image: one file, or the DICOM files of a series. A zip is opened when it is read."""
        async with self._desk.received(request) as body:
            files = [part.data for part in await asyncio.to_thread(_parts, request, body) if part.filename]
            if not files:
                raise InputError("a session is an image: send it as a file of the form")
            image = await asyncio.to_thread(zip_of, files)
            made = await asyncio.to_thread(self._sessions.open, _who(request).name, image, expiry)
        return {"session_id": made.id, "session_info": _session(made)}

    async def session(self, session: str, request: Request, update_ts: bool = False, image: bool = False) -> Response:
        """Describe a session, or give its image back."""
        found = await asyncio.to_thread(self._sessions.get, session, _who(request), touch=update_ts)
        if image:
            data = await asyncio.to_thread(self._sessions.image, found)
            return respond(Reply(HTTPStatus.OK, "application/octet-stream", data))
        return respond(told(_session(found)))

    async def close_session(self, session: str, request: Request) -> dict[str, Any]:
        """Delete a session."""
        found = await asyncio.to_thread(self._sessions.get, session, _who(request), touch=False)
        await asyncio.to_thread(self._sessions.close, found)
        return _session(found)

    async def _image(self, request: Request, image: str, session_id: str) -> bytes | Reference:
        if session_id:
            session = await asyncio.to_thread(self._sessions.get, session_id, _who(request))
            return await asyncio.to_thread(self._sessions.image, session)
        if image:
            return await asyncio.to_thread(self._reference, image)
        raise InputError("say which image: image=, session_id=, or a file of the form")

    def _reference(self, image: str) -> Reference:
        """Return where an image of the datastore is: a series of the cohort, or of the PACS by its SeriesInstanceUID."""
        if self._worklist is not None:
            try:
                return Reference(image=self._worklist.find(image).series)
            except NotFoundError:
                if not self._desk.limits.pacs:
                    raise
        if not self._desk.limits.pacs:
            raise NotFoundError("this endpoint has no datastore: serve one with --set cohort=ROOT or --set pacs=dicomweb://…")
        return self._desk.sources.series(image)


def _who(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


def _media_type(task: str, params: Mapping[str, Any], output: str) -> str:
    """Return what the pool shall answer with."""
    if output == "json" or (output != "dicom_seg" and task != "segmentation"):
        return JSON
    if output == "dicom_seg":
        return SEGMENTATION
    return NIFTI if str(params.get("result_extension", "")).startswith(".nii") else SEGMENTS


def _told(reply: Reply, said: Mapping[str, Any], params: Mapping[str, Any], output: str, total: float) -> Response:
    """Say an answer the way its client wants it."""
    segmentation = reply.media_type != JSON
    answer = {} if segmentation else json.loads(reply.body)
    facts = {**_result(said, answer), "latencies": _latencies(reply.timing, total)}
    if output == "json":
        return respond(told({"params": facts, **facts}), **_model_header(reply))
    if output == "dicom_seg":
        return respond(reply)
    if segmentation:
        extension = {NIFTI: ".nii.gz"}.get(reply.media_type) or str(params.get("result_extension") or ".nrrd")
        data, filename = reply.body, f"result{extension if extension in {'.nii.gz', '.nrrd', '.seg.nrrd'} else '.nrrd'}"
    else:
        data, filename = json.dumps(_markups(answer) if "boxes" in answer else facts).encode(), "result.json"
    if output == "image":
        headers = {**_model_header(reply), "Content-Disposition": f'attachment; filename="{filename}"'}
        return respond(Reply(HTTPStatus.OK, "application/octet-stream", data, headers))
    parts = [
        Part("params", json.dumps(facts).encode(), media_type=JSON),
        Part("image", data, filename, "application/octet-stream"),
    ]
    body, media_type = compose(parts)
    return respond(Reply(HTTPStatus.OK, media_type, body, _model_header(reply)))


def _result(said: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what goes with a result: names of labels, and what isn't an image."""
    facts: dict[str, Any] = {"label_names": said["targets"], "model": said["model"]}
    if "probabilities" in answer:
        ordered = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
        facts["prediction"] = [{"idx": said["targets"][name], "label": name, "score": score} for name, score in ordered]
    if "boxes" in answer:
        facts["box"] = [box["voxels"] for box in answer["boxes"]]
        facts["label"] = [box["label"] for box in answer["boxes"]]
        facts["score"] = [box["score"] for box in answer["boxes"]]
    if "volumes_ml" in answer:
        facts["volumes_ml"] = answer["volumes_ml"]
    return facts


def _markups(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return boxes as 3D Slicer's regions of interest (its markups schema, 1.0.3)."""
    along = [value for vector in zip(*answer["directions"], strict=True) for value in vector]
    rois = [
        {
            "type": "ROI",
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "locked": False,
            "roiType": "Box",
            "name": f"{box['label']} {box['score']:.2f}",
            "center": box["centre_mm"],
            "orientation": along,
            "size": box["size_mm"],
            "insideOut": False,
            "controlPoints": [],
        }
        for box in answer["boxes"]
    ]
    return {"@schema": MARKUPS, "markups": rois}


def _latencies(timing: Mapping[str, float], total: float) -> dict[str, Any]:
    """Return seconds of each stage, under MONAI Label's names."""
    known = {name: round(sum(timing.get(stage, 0.0) for stage in stages) / 1000, 4) for name, stages in STAGES.items()}
    return {**known, "total": round(total, 4), "transform": {}}


def _model(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": KINDS[said["task"]],
        "labels": said["targets"],
        "dimension": said["dimension"],
        "description": said["intended_use"],
        "version": said["model"],
        "config": {},
    }


def _session(found: Session) -> dict[str, Any]:
    return {
        "name": found.id, "path": "", "image": "image", "meta": {"size": found.size},
        "create_ts": int(found.created), "last_access_ts": int(found.used), "expiry": found.expiry,
    }  # fmt: skip


def _parts(request: Request, body: bytes) -> list[Part]:
    return parts_of(body, request.headers.get("content-type", ""))


def _fields(request: Request, body: bytes) -> dict[str, Part]:
    """Return a form's fields by name; of a body that is no form, nothing."""
    kind = media_type_of(request.headers.get("content-type", ""))
    return {part.name: part for part in _parts(request, body)} if kind.startswith("multipart/") else {}


def _model_header(reply: Reply) -> dict[str, str]:
    return {"X-Medray-Model": reply.headers.get("X-Medray-Model", "")}
