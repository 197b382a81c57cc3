"""Files of registered versions: what a model folder has, and how it comes from wherever MLflow keeps it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medray.evaluation.calibration import CALIBRATION
from medray.models.lean import without
from medray.storage.location import Location

__all__ = ["UNUSED", "download", "files_of", "local_folder"]

FILES = ("plan.json", "weights.safetensors")
OPTIONAL_FILES = (CALIBRATION,)
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
