"""Files of registered versions: what a model folder has, and how it comes from wherever MLflow keeps it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medray.errors import StorageError
from medray.evaluation.calibration import CALIBRATION
from medray.models.lean import without
from medray.storage.location import Location

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "UNUSED",
    "discard_files",
    "download",
    "evaluations_of",
    "files_of",
    "keep_evaluation",
    "keep_file",
    "kept_file",
    "local_folder",
]

FILES = ("plan.json", "weights.safetensors")
OPTIONAL_FILES = (CALIBRATION,)
EVALUATIONS, BESIDE = "evaluations", "beside"
UNUSED = {"pandas"}
"""MLflow loads it for datasets that nobody tracks here: a quarter of a second."""


def files_of(model: Location) -> list[str]:
    """Return the names of a model folder's files."""
    if model.join("bundle.json").exists():
        return [entry.name for entry in model.entries()]
    return [*FILES, *(name for name in OPTIONAL_FILES if model.join(name).exists())]


def local_folder(source: str) -> Path | None:
    """Return the folder of this machine where a version's files lie, or None."""
    folder = Path(url2pathname(urlsplit(source).path))
    return folder if source.startswith("file:///") and folder.is_dir() else None


def download(source: str, target: Path, tracking_uri: str) -> None:
    """Download a version's files. Versions never change, so that whoever comes first has done it for all."""
    with without(UNUSED):
        from mlflow.artifacts import download_artifacts  # noqa: PLC0415

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".arriving-") as place:
        arrived = download_artifacts(artifact_uri=source, tracking_uri=tracking_uri, dst_path=place)
        try:
            Path(arrived).rename(target)
        except OSError:  # another process of this node was first
            if not target.is_dir():
                raise


def keep_evaluation(client: MlflowClient, run: str, facts: Mapping[str, Any]) -> None:
    """Keep an evaluation beside a version's run, instead of an older one of the same cohort, version and split."""
    digest = hashlib.sha256(json.dumps([facts.get("cohort"), facts.get("split")]).encode()).hexdigest()[:16]
    client.log_text(run, json.dumps(facts, indent=1), f"{EVALUATIONS}/{digest}.json")


def keep_file(client: MlflowClient, run: str, name: str, data: bytes) -> None:
    """Keep a file beside a version's run, instead of an older one of that name."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / name).write_bytes(data)
        client.log_artifact(run, str(Path(place) / name), BESIDE)


def kept_file(client: MlflowClient, run: str, name: str) -> bytes | None:
    """Return a file that is kept beside a version's run, or None."""
    if f"{BESIDE}/{name}" not in {entry.path for entry in client.list_artifacts(run, BESIDE)}:
        return None
    with tempfile.TemporaryDirectory() as place:
        return Path(client.download_artifacts(run, f"{BESIDE}/{name}", place)).read_bytes()


def discard_files(client: MlflowClient, run: str, folder: str = "") -> None:
    """Delete a run's files, or those of one folder, wherever MLflow keeps them.

    Raises:
        StorageError: If that store refuses.
    """
    if not _holds(client, run, folder):
        return
    with without(UNUSED):
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: PLC0415

    uri = client.get_run(run).info.artifact_uri
    try:
        get_artifact_repository(uri, tracking_uri=client.tracking_uri).delete_artifacts(folder or None)
    except Exception as error:  # noqa: BLE001 - each kind of store has its own
        raise StorageError(f"files of run {run} can't be deleted ({type(error).__name__}): delete them in {uri}") from None
    if _holds(client, run, folder):  # S3 refuses file by file, and MLflow doesn't look
        raise StorageError(f"files of run {run} can't be deleted: delete them in {uri}")


def _holds(client: MlflowClient, run: str, folder: str) -> bool:
    """Tell whether there is a file; some stores go on naming folders that have none."""
    entries = client.list_artifacts(run, folder or None)
    return any(not entry.is_dir or _holds(client, run, entry.path) for entry in entries)


def evaluations_of(client: MlflowClient, run: str) -> list[dict[str, Any]]:
    """Return the evaluations beside a version's run, the oldest first."""
    if not client.list_artifacts(run, EVALUATIONS):
        return []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(client.download_artifacts(run, EVALUATIONS, place))
        found: list[dict[str, Any]] = [json.loads(file.read_bytes()) for file in folder.glob("*.json")]
    return sorted(found, key=lambda facts: str(facts.get("at", "")))
