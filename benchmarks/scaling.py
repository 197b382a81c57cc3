"""What do two workers gain over one, and does it matter whether they share a node?

The same cases, plan and steps under Ray Train with one worker on one core, with two workers on two cores of one node, and with
two workers on two simulated nodes of one core each. Each epoch's patches a second are compared, the first epoch left out. The
two settings with two workers draw the same patches, so that their losses must be equal.

What the machine itself allows is measured beside it: the same loop in one process of plain torch with one thread, and in two at
once that know nothing of one another. They share caches, memory and, on virtual machines, often a core's arithmetic units.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import statistics
import tempfile
from pathlib import Path
from typing import Any

import ray
from plain import History, begin, history_of
from ray.cluster_utils import Cluster
from report import bars, save

import medray
from medray.engine import stream
from medray.preprocessing.prepared import Prepared, open_prepared
from medray.samples.brain import write_brain_cohort
from medray.training.trainer import KEEP_MEMORY

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
        alone, both = strangers(prepared, 1), strangers(prepared, 2)
    paces = {name: pace(history) for name, history in (("one worker", one), ("two workers", two), ("two nodes", nodes))}
    losses = {name: [record["loss"] for record in history] for name, history in (("two workers", two), ("two nodes", nodes))}
    machine = {"one process": sum(map(pace, alone)), "two processes": sum(map(pace, both))}
    save(
        "scaling",
        {
            "patches_per_second": paces,
            "ratio": paces["two workers"] / paces["one worker"],
            "ratio_two_nodes": paces["two nodes"] / paces["one worker"],
            "machine": machine,
            "ratio_of_machine": machine["two processes"] / machine["one process"],
            "losses": losses,
            "losses_equal": losses["two workers"] == losses["two nodes"],
        },
    )
    shown = {f"medray, {name}, one core each": value for name, value in paces.items()}
    shown |= {f"plain torch, {name}, one thread each": value for name, value in machine.items()}
    bars("scaling", "patches of 64³ a second, U-Net, gloo", shown, "patches a second")


def two_nodes(prepared: str, folder: Path) -> History:
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


def fitted(prepared: Prepared, folder: Path, name: str, *, workers: int) -> History:
    """Fit with one core a worker."""
    config = medray.FitConfig(**CONFIG)
    return medray.fit(prepared, config, name=name, workers=workers, cpus=1, gpu=False, runs=folder / "runs").history


def strangers(prepared: Prepared, count: int) -> list[History]:
    """Run the loop in so many processes at once, with one thread each and the settings that Ray's workers get."""
    settings = {**KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
    running = [begin(prepared, CONFIG, threads=1, settings=settings) for _ in range(count)]
    return [history_of(process) for process in running]


def pace(history: History) -> float:
    """Return the median epoch's patches a second, all workers together."""
    return float(statistics.median(record["samples_per_second"] for record in history[1:]))


if __name__ == "__main__":
    main()
