"""What do two workers gain over one, and does it matter whether they share a node?

The same cases, plan and steps under Ray Train with one worker on one core, with two workers on two cores of one node, and with
two workers on two simulated nodes of one core each. Each epoch's patches a second are compared, the first epoch left out. The
two settings with two workers draw the same patches, so that their losses must be equal.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

import statistics
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from report import bars, save

import medray
from medray.engine import stream
from medray.preprocessing.prepared import Prepared, open_prepared
from medray.samples.brain import write_brain_cohort
from medray.training.run import Run

CONFIG: dict[str, Any] = {"epochs": 4, "steps": 20, "mixed": True, "picture": False}


def main() -> None:
    """Run the three settings and save the figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ray.init(address="local", num_cpus=2, log_to_driver=False)
        write_brain_cohort(folder / "source", subjects=8, over=lambda function, numbers: stream(numbers, function))
        cohort = medray.ingest(folder / "source", folder / "cohort")
        prepared = medray.prepare(cohort, medray.plan(cohort), folder / "prepared")
        one, two = fitted(prepared, folder, "one", workers=1), fitted(prepared, folder, "two", workers=2)
        ray.shutdown()
        nodes = two_nodes(prepared.root.path, folder)
    paces = {name: pace(run) for name, run in (("one worker", one), ("two workers", two), ("two nodes", nodes))}
    losses = {name: [record["loss"] for record in run.history] for name, run in (("two workers", two), ("two nodes", nodes))}
    save(
        "scaling",
        {
            "patches_per_second": paces,
            "ratio": paces["two workers"] / paces["one worker"],
            "ratio_two_nodes": paces["two nodes"] / paces["one worker"],
            "losses": losses,
            "losses_equal": losses["two workers"] == losses["two nodes"],
        },
    )
    shown = {f"medray, {name}, one core each": value for name, value in paces.items()}
    bars("scaling", "patches of 64³ a second, U-Net, gloo", shown, "patches a second")


def two_nodes(prepared: str, folder: Path) -> Run:
    """Fit on a head without cores and two nodes with one each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 << 20})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=200 << 20)
        ray.init(address=cluster.address, log_to_driver=False)
        return fitted(open_prepared(prepared), folder, "nodes", workers=2)
    finally:
        ray.shutdown()
        cluster.shutdown()


def fitted(prepared: Prepared, folder: Path, name: str, *, workers: int) -> Run:
    """Fit with one core a worker."""
    return medray.fit(prepared, medray.FitConfig(**CONFIG), name=name, workers=workers, cpus=1, gpu=False, runs=folder / "runs")


def pace(run: Run) -> float:
    """Return the median epoch's patches a second, all workers together."""
    return float(statistics.median(record["samples_per_second"] for record in run.history[1:]))


if __name__ == "__main__":
    main()
