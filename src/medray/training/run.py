"""A run's folder: what a fit leaves behind, and how it is found again.

::

    RUNS/NAME/N/fit.json         plan, config and prepared cohort; written first
    RUNS/NAME/N/start.safetensors    weights to begin with, if any
    RUNS/NAME/N/history.json     a record an epoch, so that anyone may watch
    RUNS/NAME/N/pictures/        a validation case after each epoch
    RUNS/NAME/N/train/           Ray Train's checkpoints
    RUNS/NAME/N/model/           plan.json, weights.safetensors of the best epoch; and perhaps calibration.json
    RUNS/NAME/N/run.json         scores, lineage, versions; written last
"""

from __future__ import annotations

import json
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from medray import __version__, config
from medray.cohort.splits import SPLITS
from medray.errors import ConfigError
from medray.evaluation.calibration import CALIBRATION
from medray.preprocessing.plan import Plan, read_plan
from medray.preprocessing.prepared import Prepared
from medray.storage.location import Location
from medray.training.config import FitConfig

__all__ = ["START", "WEIGHTS", "Made", "Run", "best_of", "claim_folder", "fetched", "finish_run", "finished", "read_history"]

WEIGHTS = "weights.safetensors"
START = "start.safetensors"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
Saved = TypeVar("Saved")


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
    def plan(self) -> Plan:
        """What it trained by."""
        return read_plan(json.loads(self.model.join("plan.json").read()), what=f"the plan in {self.model.path}")

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One record an epoch: see `medray.training.loop.EpochRecord`."""
        records: Sequence[Mapping[str, Any]] = self.record["history"]
        return records


@dataclass(frozen=True, slots=True)
class Made:
    """What a run was made of.

    Attributes:
        plan: That it trained by.
        config: How.
        prepared: From what.
        history: A record an epoch.
        epoch: Whose weights are exported.
        threads: Cores of a worker.
    """

    plan: Plan
    config: FitConfig
    prepared: Prepared
    history: Sequence[Mapping[str, Any]]
    epoch: int
    threads: int


def best_of(checkpoints: Iterable[tuple[Saved, Mapping[str, Any]]]) -> tuple[Saved, int]:
    """Return the checkpoint with the highest score, and its epoch; of equals, which small validation sets give, the latest.

    Args:
        checkpoints: Each with what was reported with it: as ``score`` its epoch's standing, and ``epoch``.
    """
    saved, told = max(checkpoints, key=lambda pair: (float(pair[1]["score"]), int(pair[1]["epoch"])))
    return saved, int(told["epoch"])


def finish_run(name: str, folder: Location, checkpoint: Path, made: Made, facts: Mapping[str, Any]) -> Run:
    """Export a checkpoint as a model folder and write ``run.json``, last.

    Args:
        name: What was trained.
        folder: The run's.
        checkpoint: Of that epoch.
        made: What it was made of.
        facts: Further entries of the record.
    """
    folder.join("model", WEIGHTS).write((checkpoint / WEIGHTS).read_bytes())
    folder.join("model", "plan.json").write(json.dumps(config.dump(made.plan), indent=1).encode())
    best = next(record for record in made.history if record["epoch"] == made.epoch)
    if best.get("calibration"):
        folder.join("model", CALIBRATION).write(json.dumps(best["calibration"], indent=1).encode())
    record = {
        "schema_version": 1,
        "name": name,
        "config": config.dump(made.config),
        "cohort": made.prepared.cohort,
        "subjects": {split: made.prepared.subjects(split) for split in SPLITS},
        "best_epoch": best["epoch"],
        "scores": best["scores"],
        "history": list(made.history),
        "versions": {"medray": __version__, "ray": version("ray"), "torch": version("torch")},
        "hardware": {"machine": platform.machine(), "threads": made.threads},
        **facts,
    }
    folder.join("run.json").write(json.dumps(record, indent=1).encode())
    return Run(name, folder, record)


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


@contextmanager
def fetched(model: Location) -> Iterator[Path]:
    """Give a model folder's files as a local folder, wherever they are."""
    with tempfile.TemporaryDirectory(prefix="medray-model-") as place:
        for entry in model.entries():
            (Path(place) / entry.name).write_bytes(model.join(entry.name).read())
        yield Path(place)


def finished(name: str, folder: Location) -> Run | None:
    """Return the run of a folder where it is finished."""
    file = folder.join("run.json")
    return Run(name, folder, json.loads(file.read())) if file.exists() else None


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
