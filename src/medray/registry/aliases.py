"""Aliases of a model's versions in MLflow, and which version had one before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from medray import config
from medray.registry.rollout import CANARY_TAG, CHALLENGER, Canary
from medray.registry.version import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Aliases", "known"]

BEFORE = "medray.before"
"""Tag of a version, with an alias behind it: which version had that alias before."""
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""What MLflow says of a missing model or version, and of a missing alias; anything else is an outage."""
T = TypeVar("T")


class Aliases:
    """Reads and moves one model's aliases.

    Args:
        client: Of the registry.
        name: Of the model.
    """

    def __init__(self, client: MlflowClient, name: str) -> None:
        self._client = client
        self._name = name

    def read(self) -> tuple[dict[str, str], Mapping[str, str]]:
        """Return alias to version number, and the model's tags; both empty where there is no such model."""
        model = known(self._client.get_registered_model, self._name)
        if model is None:
            return {}, {}
        return {alias: str(version) for alias, version in model.aliases.items()}, model.tags

    def before(self, alias: str, version: ModelVersion) -> str | None:
        """Return which version had an alias before one that has it."""
        found: str | None = self._client.get_model_version(self._name, str(version.version)).tags.get(f"{BEFORE}.{alias}")
        return found

    def move(self, alias: str, version: ModelVersion, before: str = "") -> None:
        """Point an alias at a version, and keep which had it before."""
        if before:
            self._client.set_model_version_tag(self._name, str(version.version), f"{BEFORE}.{alias}", before)
        self._client.set_registered_model_alias(self._name, alias, str(version.version))

    def forget(self, version: ModelVersion) -> None:
        """Let what had an alias after a version go back to what had it before that; for one that is about to be deleted."""
        theirs = self._client.get_model_version(self._name, str(version.version)).tags
        for other in self._client.search_model_versions(f"name='{self._name}'"):
            for tag in [tag for tag, value in other.tags.items() if _before(tag) and value == str(version.version)]:
                if tag in theirs and theirs[tag] != str(other.version):
                    self._client.set_model_version_tag(self._name, str(other.version), tag, theirs[tag])
                else:
                    self._client.delete_model_version_tag(self._name, str(other.version), tag)

    def challenge(self, version: ModelVersion, canary: Canary) -> None:
        """Make a version the challenger."""
        self._client.set_registered_model_tag(self._name, CANARY_TAG, json.dumps(config.dump(canary)))
        self._client.set_registered_model_alias(self._name, CHALLENGER, str(version.version))

    def end(self, alias: str) -> None:
        """Take an alias away."""
        self._client.delete_registered_model_alias(self._name, alias)
        if alias == CHALLENGER:
            self._client.delete_registered_model_tag(self._name, CANARY_TAG)


def _before(tag: str) -> bool:
    return tag.startswith(f"{BEFORE}.")


def known(ask: Callable[..., T], *of: str | None) -> T | None:
    """Return what MLflow knows, or None where it says that there is no such thing."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        return ask(*of)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None
