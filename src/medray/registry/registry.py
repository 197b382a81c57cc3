"""`Registry`: versions and aliases behind MLflow: SQLite and a folder by default, any MLflow server by URI."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medray import config
from medray.audit import Event, open_trail
from medray.errors import ConfigError, ConflictError, NotFoundError
from medray.models.lean import without
from medray.registry.aliases import Aliases, known
from medray.registry.beside import Beside
from medray.registry.card import ModelCard
from medray.registry.files import UNUSED, download, files_of, local_folder
from medray.registry.recall import Recall
from medray.registry.rollout import CHALLENGER, CHAMPION, Canary, Rollout, rollout_of
from medray.registry.served import served_until
from medray.registry.tracking import Tracking, metric_name
from medray.registry.version import ModelVersion
from medray.storage.location import Location

if TYPE_CHECKING:  # MLflow takes a second and a half to import: whoever only asks for a known model does without
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

__all__ = ["Registry"]

EXPERIMENT = "medray"
REFERENCE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)(?:@(?P<alias>[a-z0-9_-]+)|/(?P<version>\d+))?")


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
        weights = _digest(model)
        for found in self._client.search_model_versions(f"name='{card.name}'"):
            # The same run again: a job that was retried after it had registered. Runs of other machines may have the same path.
            same = card.lineage.get("run") and found.tags.get("run") == card.lineage["run"]
            if same and found.tags.get("weights") == weights:
                if tracking is not None:
                    tracking.end()
                return _version(found)
        if tracking is None:
            tracking = Tracking(self._client, self._client.create_run(self._experiment(), run_name=card.name).info.run_id)
        run = self._client.get_run(tracking.run)
        with tempfile.TemporaryDirectory() as place:
            for name in files_of(model):
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
            tags={
                "weights": weights,
                **{key: card.lineage[key] for key in ("cohort", "run", "bundle") if key in card.lineage},
            },
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
            found = known(ask, name, version or alias)
            return _version(found) if found else None
        there = self.versions(name)
        return next((item for item in there if CHAMPION in item.aliases), there[-1]) if there else None

    def versions(self, name: str) -> list[ModelVersion]:
        """Return a model's versions, oldest first; empty when there is no such model."""
        model = known(self._client.get_registered_model, name)
        if model is None:
            return []
        found = self._client.search_model_versions(f"name='{name}'")
        return sorted((_version(item, model.aliases) for item in found), key=lambda item: item.version)

    def names(self) -> list[str]:
        """Return the models' names, sorted."""
        return sorted(model.name for model in self._client.search_registered_models(max_results=1000))

    def promote(self, reference: str, alias: str = CHAMPION, *, why: str = "", actor: str = "") -> ModelVersion:
        """Point an alias at a version; a challenger that becomes champion is no challenger any more.

        Args:
            reference: Of the version.
            alias: Which.
            why: For the audit trail; nothing of a patient.
            actor: Who; the operating system's user by default.
        """
        found = self.resolve(reference)
        aliases = self._aliases(found.name)
        now, _ = aliases.read()
        before = now.get(alias, "")
        if before != str(found.version):
            self._record("model.promote", found, f"{alias} after {before or 'none'}", why, actor)
            aliases.move(alias, found, before)
        if alias == CHAMPION and now.get(CHALLENGER) == str(found.version):
            aliases.end(CHALLENGER)
        return self.resolve(str(found))

    def rollback(self, name: str, alias: str = CHAMPION, *, why: str = "", actor: str = "") -> ModelVersion:
        """Point an alias back at the version that it pointed at before.

        Raises:
            NotFoundError: If there is no such model or alias.
            ConflictError: If nothing had the alias before.
        """
        now = self.resolve(f"{name}@{alias}")
        aliases = self._aliases(name)
        before = aliases.before(alias, now)
        if before is None:
            raise ConflictError(f"{now} is the first version that was {alias}: there is nothing to go back to")
        old = self.resolve(f"{name}/{before}")
        self._record("model.rollback", old, f"{alias} after {now.version}", why, actor)
        aliases.move(alias, old)
        return self.resolve(str(old))

    def challenge(self, reference: str, canary: Canary, *, why: str = "", actor: str = "") -> ModelVersion:
        """Let a version answer a share of a model's requests; what takes it back stands in ``canary``.

        Raises:
            ConflictError: If it is the champion, or there is none.
        """
        found = self.resolve(reference)
        aliases = self._aliases(found.name)
        champion = aliases.read()[0].get(CHAMPION)
        if champion is None:
            raise ConflictError(f"{found} has nobody to challenge: promote a version of {found.name} first")
        if champion == str(found.version):
            raise ConflictError(f"{found} is the champion already")
        self._record("model.challenge", found, f"{canary.share:.0%} beside {champion}", why, actor)
        aliases.challenge(found, replace(canary, since=datetime.now(UTC).isoformat()))
        return self.resolve(str(found))

    def withdraw(self, reference: str, alias: str = CHALLENGER, *, why: str = "", actor: str = "") -> None:
        """Take an alias from the version that has it, which then gets no requests by it; one that has it no more is fine."""
        found = self.resolve(reference)
        aliases = self._aliases(found.name)
        if aliases.read()[0].get(alias) == str(found.version):
            self._record("model.withdraw", found, alias, why, actor)
            aliases.end(alias)

    def rollout(self, name: str) -> Rollout:
        """Return which versions of a model get which requests now.

        Raises:
            NotFoundError: If there is no such model.
        """
        champion = self.resolve(name)
        now, tags = self._aliases(name).read()
        return rollout_of(champion, {alias: self.resolve(f"{name}/{version}") for alias, version in now.items()}, tags)

    def _aliases(self, name: str) -> Aliases:
        return Aliases(self._client, name)

    def _record(self, action: str, version: ModelVersion, what: str, why: str, actor: str) -> None:
        """Write in the audit trail what is about to be done."""
        open_trail().record([Event(action, str(version), detail=f"{what}: {why}" if why else what, actor=actor)])

    def fetch(self, model: str | ModelVersion) -> Path:
        """Return a local folder with a version's files; downloads them where the store is remote, once for all of a node.

        Args:
            model: A reference, or what one meant when it was resolved: its alias may have moved since.
        """
        source = (self.resolve(model) if isinstance(model, str) else model).source
        local = local_folder(source)
        if local is not None:
            return local
        kept = self._kept(source)
        if not kept.is_dir():
            download(source, kept, self.uri)
        return kept

    def _kept(self, source: str) -> Path:
        """Return the folder of this node for a version's files that lie elsewhere."""
        return config.home() / "fetched" / hashlib.sha256(f"{self.uri}\n{source}".encode()).hexdigest()[:32]

    def card(self, model: str | ModelVersion) -> ModelCard:
        """Return a version's card; takes what `fetch` does."""
        return config.load(ModelCard, config.read_file(self.fetch(model) / "card.json"), what=f"card of {model}")

    def beside(self, version: ModelVersion) -> Beside:
        """Return what is kept with a version: evaluations, and files that may change."""
        return Beside(self._client, str(self._client.get_model_version(version.name, str(version.version)).run_id))

    def delete(self, reference: str, *, why: str = "", actor: str = "") -> ModelVersion:
        """Delete a version that nothing serves: its entry, and its files.

        Raises:
            StorageError: If its entry is gone, and the store doesn't let its files be deleted.
            ConflictError: If an alias points at it, an endpoint has answered with it in the last ten minutes, or it is what its
                model's bare name means.
        """
        found = self.resolve(reference)
        if found.aliases:
            raise ConflictError(f"{found} is {', '.join(found.aliases)}: promote another version, or withdraw it, first")
        left = served_until(self.uri, str(found)) - time.time()
        if left > 0:
            raise ConflictError(f"{found} is served, or was a moment ago: stop that, and try again in {left / 60:.0f} minutes")
        if len(self.versions(found.name)) > 1 and self.resolve(found.name).version == found.version:
            raise ConflictError(f"{found} is what {found.name} means, for no version is champion: promote one first")
        self._record("model.delete", found, "deleted", why, actor)
        beside = self.beside(found)
        self._aliases(found.name).forget(found)
        self._client.delete_model_version(found.name, str(found.version))
        shutil.rmtree(self._kept(found.source), ignore_errors=True)
        beside.discard()
        self._client.delete_run(beside.run)
        return found

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        place = None
        if self.uri.startswith("sqlite:///"):
            place = (Path(self.uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=place))


def _digest(model: Location) -> str:
    return hashlib.sha256(model.join("weights.safetensors").read()).hexdigest()


def _version(found: MlflowVersion, aliases: Mapping[str, str] | None = None) -> ModelVersion:
    number = int(found.version)
    names = [alias for alias, version in (aliases or {}).items() if int(version) == number] or list(found.aliases)
    return ModelVersion(found.name, number, tuple(sorted(names)), str(found.source))
