"""`Registry`: versions and aliases behind MLflow: SQLite and a folder by default, any MLflow server by URI."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medray import config
from medray.errors import ConfigError, NotFoundError
from medray.evaluation.calibration import CALIBRATION
from medray.models.lean import without
from medray.registry.card import ModelCard
from medray.registry.recall import Recall
from medray.registry.tracking import Tracking, metric_name
from medray.registry.version import ModelVersion
from medray.storage.location import Location

if TYPE_CHECKING:  # MLflow takes a second and a half to import: whoever only asks for a known model does without
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

__all__ = ["CHAMPION", "Registry"]

CHAMPION = "champion"
EXPERIMENT = "medray"
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""What MLflow says of a missing model or version, and of a missing alias; anything else is an outage."""
REFERENCE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)(?:@(?P<alias>[a-z0-9_-]+)|/(?P<version>\d+))?")
FILES = ("plan.json", "weights.safetensors")
OPTIONAL_FILES = (CALIBRATION,)
UNUSED = {"pandas"}
"""MLflow loads it for datasets that nobody tracks here: a quarter of a second."""
T = TypeVar("T")


class Registry:
    """Models by ``name`` (its champion, or else the newest), ``name@alias`` or ``name/version``.

    Args:
        uri: An MLflow tracking URI; ``MLFLOW_TRACKING_URI`` or SQLite under ``MEDRAY_HOME`` by default.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{config.home() / 'registry.db'}"

    @cached_property
    def _client(self) -> MlflowClient:
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        with without(UNUSED):
            from mlflow import MlflowClient  # noqa: PLC0415

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of every table that it makes
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @contextmanager
    def tracking(self, name: str) -> Iterator[Tracking]:
        """Open an MLflow run to follow a fit in; give it to `register` to have the model in the same run."""
        run = self._client.create_run(self._experiment(), run_name=name)
        followed = Tracking(self._client, run.info.run_id)
        try:
            yield followed
        except BaseException:
            followed.end(failed=True)
            raise

    def register(self, card: ModelCard, model: Location, *, tracking: Tracking | None = None) -> ModelVersion:
        """Store a model folder with its card as the next version of ``card.name``; a run is registered once.

        Args:
            card: What to say of it.
            model: The folder: ``weights.safetensors`` with ``plan.json`` and, where there is one, ``calibration.json``; or with
                ``bundle.json`` and the folder ``bundle``.
            tracking: The MLflow run that the fit was followed in; a new one by default.

        Raises:
            NotFoundError: If a file of the folder is missing.
        """
        known = self._client.search_model_versions(f"name='{card.name}'")
        for found in known:  # the same run again: a job that was retried after it had registered
            if card.lineage.get("run") and found.tags.get("run") == card.lineage["run"]:
                if tracking is not None:
                    tracking.end()
                return _version(found)
        if tracking is None:
            tracking = Tracking(self._client, self._client.create_run(self._experiment(), run_name=card.name).info.run_id)
        run = self._client.get_run(tracking.run)
        with tempfile.TemporaryDirectory() as place:
            for name in _files_of(model):
                (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(place) / name).write_bytes(model.join(name).read())
            (Path(place) / "card.json").write_text(json.dumps(config.dump(card), indent=1), encoding="utf-8")
            self._client.log_artifacts(run.info.run_id, place, "model")
        for split, scores in card.scores.items():
            for label, score in scores.items():
                self._client.log_metric(run.info.run_id, metric_name(f"{split}.{label}.best"), score)
        tracking.end()
        if not self._client.search_registered_models(f"name='{card.name}'"):
            self._client.create_registered_model(card.name)
        made = self._client.create_model_version(
            card.name,
            source=f"{run.info.artifact_uri}/model",
            run_id=run.info.run_id,
            tags={key: card.lineage[key] for key in ("cohort", "run", "bundle") if key in card.lineage},
        )
        return _version(made)

    def resolve(self, reference: str) -> ModelVersion:
        """Find the version that a reference means now.

        Raises:
            ConfigError: If the reference is malformed.
            NotFoundError: If there is no such model, version or alias.
        """
        match = REFERENCE.fullmatch(reference)
        if match is None:
            raise ConfigError(f"model {reference!r} must be name, name@alias or name/version")
        recall = Recall.of(self.uri)
        found = recall.found.get(reference) or self._look_up(match["name"], match["alias"], match["version"])
        if found is None:
            raise NotFoundError(f"no model {reference}: medray models list shows what there is")
        if reference not in recall.found:
            recall.keep(reference, found)
        return found

    def _look_up(self, name: str, alias: str | None, version: str | None) -> ModelVersion | None:
        if version or alias:
            ask = self._client.get_model_version if version else self._client.get_model_version_by_alias
            found = _known(ask, name, version or alias)
            return _version(found) if found else None
        known = self.versions(name)
        return next((item for item in known if CHAMPION in item.aliases), known[-1]) if known else None

    def versions(self, name: str) -> list[ModelVersion]:
        """Return a model's versions, oldest first; empty when there is no such model."""
        model = _known(self._client.get_registered_model, name)
        if model is None:
            return []
        found = self._client.search_model_versions(f"name='{name}'")
        return sorted((_version(item, model.aliases) for item in found), key=lambda item: item.version)

    def names(self) -> list[str]:
        """Return the models' names, sorted."""
        return sorted(model.name for model in self._client.search_registered_models(max_results=1000))

    def promote(self, reference: str, alias: str = CHAMPION) -> ModelVersion:
        """Point an alias at a version."""
        found = self.resolve(reference)
        self._client.set_registered_model_alias(found.name, alias, str(found.version))
        return self.resolve(f"{found.name}/{found.version}")

    def fetch(self, model: str | ModelVersion) -> Path:
        """Return a local folder with a version's files; downloads them where the store is remote, once for all of a node.

        Args:
            model: A reference, or what one meant when it was resolved: its alias may have moved since.
        """
        source = (self.resolve(model) if isinstance(model, str) else model).source
        local = Path(url2pathname(urlsplit(source).path))
        if source.startswith("file:///") and local.is_dir():
            return local
        kept = config.home() / "fetched" / hashlib.sha256(f"{self.uri}\n{source}".encode()).hexdigest()[:32]
        if not kept.is_dir():
            self._download(source, kept)
        return kept

    def _download(self, source: str, target: Path) -> None:
        """Download a version's files. Versions never change, so that whoever comes first has done it for all."""
        with without(UNUSED):
            from mlflow.artifacts import download_artifacts  # noqa: PLC0415

        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".arriving-") as place:
            arrived = download_artifacts(artifact_uri=source, tracking_uri=self.uri, dst_path=place)
            try:
                Path(arrived).rename(target)
            except OSError:  # another process of this node was first
                if not target.is_dir():
                    raise

    def card(self, model: str | ModelVersion) -> ModelCard:
        """Return a version's card; takes what `fetch` does."""
        return config.load(ModelCard, config.read_file(self.fetch(model) / "card.json"), what=f"card of {model}")

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        place = None
        if self.uri.startswith("sqlite:///"):
            place = (Path(self.uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=place))


def _files_of(model: Location) -> list[str]:
    """Return the names of a model folder's files."""
    if model.join("bundle.json").exists():
        return [entry.name for entry in model.entries()]
    return [*FILES, *(name for name in OPTIONAL_FILES if model.join(name).exists())]


def _known(ask: Callable[..., T], *of: str | None) -> T | None:
    """Return what MLflow knows, or None where it says that there is no such thing."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        return ask(*of)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def _version(found: MlflowVersion, aliases: Mapping[str, str] | None = None) -> ModelVersion:
    number = int(found.version)
    names = [alias for alias, version in (aliases or {}).items() if int(version) == number] or list(found.aliases)
    return ModelVersion(found.name, number, tuple(sorted(names)), str(found.source))
