"""`Beside`: what is kept with a version and isn't it: how good it was, what drift is told by, pictures of its fit."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.errors import StorageError
from medray.models.lean import without
from medray.registry.files import UNUSED
from medray.registry.tracking import PICTURES

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Beside"]

EVALUATIONS, FILES = "evaluations", "beside"


class Beside:
    """Files of the MLflow run that a version belongs to. They may change; the version's own never do.

    Attributes:
        run: The run's id.

    Args:
        client: Of the registry.
        run: The run's id.
    """

    def __init__(self, client: MlflowClient, run: str) -> None:
        self._client = client
        self.run = run

    def add_evaluation(self, facts: Mapping[str, Any]) -> None:
        """Keep how good the version was, instead of what was kept of the same cohort, version and split.

        Args:
            facts: JSON-ready, with ``cohort``, ``split`` and ``at``.
        """
        digest = hashlib.sha256(json.dumps([facts.get("cohort"), facts.get("split")]).encode()).hexdigest()[:16]
        self._client.log_text(self.run, json.dumps(facts, indent=1), f"{EVALUATIONS}/{digest}.json")

    def evaluations(self) -> list[dict[str, Any]]:
        """Return how good the version was on each cohort and split that it was evaluated on, the oldest first."""
        if not self._client.list_artifacts(self.run, EVALUATIONS):
            return []
        with tempfile.TemporaryDirectory() as place:
            folder = Path(self._client.download_artifacts(self.run, EVALUATIONS, place))
            found: list[dict[str, Any]] = [json.loads(file.read_bytes()) for file in folder.glob("*.json")]
        return sorted(found, key=lambda facts: str(facts.get("at", "")))

    def keep(self, name: str, data: bytes) -> None:
        """Keep a file, instead of an older one of that name."""
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / name).write_bytes(data)
            self._client.log_artifact(self.run, str(Path(place) / name), FILES)

    def kept(self, name: str) -> bytes | None:
        """Return a file that is kept, or None."""
        if f"{FILES}/{name}" not in {entry.path for entry in self._client.list_artifacts(self.run, FILES)}:
            return None
        with tempfile.TemporaryDirectory() as place:
            return Path(self._client.download_artifacts(self.run, f"{FILES}/{name}", place)).read_bytes()

    def discard_pictures(self) -> None:
        """Delete the pictures of validation patients that the version's fit has left; see `discard`."""
        self.discard(PICTURES)

    def discard(self, folder: str = "") -> None:
        """Delete all files, or those of one folder, wherever MLflow keeps them.

        Raises:
            StorageError: If that store refuses.
        """
        if not self._holds(folder):
            return
        with without(UNUSED):
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: PLC0415

        uri = self._client.get_run(self.run).info.artifact_uri
        refused = f"files of run {self.run} can't be deleted: delete them in {uri}"
        try:
            get_artifact_repository(uri, tracking_uri=self._client.tracking_uri).delete_artifacts(folder or None)
        except Exception as error:  # noqa: BLE001 - each kind of store has its own
            raise StorageError(f"{refused} ({type(error).__name__})") from None
        if self._holds(folder):  # S3 refuses file by file, and MLflow doesn't look
            raise StorageError(refused)

    def _holds(self, folder: str) -> bool:
        """Tell whether there is a file; some stores go on naming folders that have none."""
        entries = self._client.list_artifacts(self.run, folder or None)
        return any(not entry.is_dir or self._holds(entry.path) for entry in entries)
