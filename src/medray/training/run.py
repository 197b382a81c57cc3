"""A run's folder: what a fit leaves behind, and how it is found again.

::

    RUNS/NAME/N/fit.json         plan, config and prepared cohort; written first
    RUNS/NAME/N/history.json     a record an epoch, so that anyone may watch
    RUNS/NAME/N/train/           Ray Train's checkpoints
    RUNS/NAME/N/model/           plan.json, weights.safetensors of the best epoch
    RUNS/NAME/N/run.json         scores, lineage, versions; written last
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from medray.errors import ConfigError
from medray.storage.location import Location

__all__ = ["Run", "claim_folder", "read_history"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished fit.

    Attributes:
        name: What it trained.
        folder: Where it lies.
        record: ``run.json``.
    """

    name: str
    folder: Location
    record: Mapping[str, Any]

    @property
    def model(self) -> Location:
        """The folder with the best epoch's weights and the plan."""
        return self.folder.join("model")

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One record an epoch: see `medray.training.loop.EpochRecord`."""
        records: Sequence[Mapping[str, Any]] = self.record["history"]
        return records


def claim_folder(runs: Location, name: str, setup: Mapping[str, Any]) -> Location:
    """Return the folder to train in: the newest one where it has the same set-up, to resume or to reuse, or a new one.

    Args:
        runs: Where runs lie.
        name: What is trained.
        setup: JSON-ready; what a run must share with another to be the same.

    Raises:
        ConfigError: If the name can't be a folder and a model's name.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} must be small letters, digits, '.', '_' and '-', and begin with a letter or digit")
    home = runs.join(name)
    numbers = _numbers(home)
    wanted = json.dumps(setup, sort_keys=True)
    if numbers:
        last = home.join(str(numbers[-1]))
        file = last.join("fit.json")
        if file.exists() and json.dumps(json.loads(file.read()), sort_keys=True) == wanted:
            return last
    folder = home.join(str(numbers[-1] + 1 if numbers else 1))
    folder.join("fit.json").write(json.dumps(setup, indent=1).encode())
    return folder


def read_history(folder: Location) -> list[dict[str, Any]]:
    """Return the records of the epochs that are done; empty before the first."""
    file = folder.join("history.json")
    records: list[dict[str, Any]] = json.loads(file.read()) if file.exists() else []
    return records


def _numbers(home: Location) -> list[int]:
    if not home.exists():
        return []
    found = home.filesystem.get_file_info(fs.FileSelector(home.path))
    return sorted(int(info.base_name) for info in found if info.base_name.isdigit())
