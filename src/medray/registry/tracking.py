"""A fit as it goes on, in MLflow: one run, a step an epoch."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medray.storage.location import Location

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["PICTURES", "Tracking", "metric_name"]

PICTURES = "pictures"

MEASURED = ("loss", "score", "seconds", "step_seconds", "wait_share", "samples_per_second", "validation_seconds")


class Tracking:
    """Follows one fit.

    Args:
        client: Of the tracking server.
        run: The MLflow run's id.
    """

    def __init__(self, client: MlflowClient, run: str) -> None:
        self._client = client
        self.run = run

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log an epoch's record (see `medray.training.loop.EpochRecord`)."""
        from mlflow.entities import Metric  # noqa: PLC0415 - slow to import, and here already imported with the client

        numbers = {name: record[name] for name in MEASURED if name in record}
        numbers |= {f"val.{name}": score for name, score in record["scores"].items()}
        now, step = int(time.time() * 1000), int(record["epoch"])
        self._client.log_batch(
            self.run, [Metric(metric_name(name), float(value), now, step) for name, value in numbers.items()]
        )

    def pictures(self, folder: Location) -> None:
        """Log the pictures of a folder, if it has any."""
        with tempfile.TemporaryDirectory() as place:
            for entry in folder.entries() if folder.exists() else ():
                (Path(place) / Path(entry.name).name).write_bytes(folder.join(entry.name).read())
            self._client.log_artifacts(self.run, place, PICTURES)

    def end(self, *, failed: bool = False) -> None:
        """Say that nothing more will come."""
        self._client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


def metric_name(name: str) -> str:
    """Return a name that MLflow takes: letters, digits, and ``_-. /``."""
    return re.sub(r"[^\w\-. /]", "_", name)
