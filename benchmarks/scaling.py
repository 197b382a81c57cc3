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
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster
from report import bars, save

import medray
from medray.engine import stream
from medray.preprocessing.prepared import Prepared, open_prepared
from medray.samples.brain import write_brain_cohort
from medray.training.data import Batches, open_cases
from medray.training.learner import Learner
from medray.training.loop import run_epochs
from medray.training.trainer import KEEP_MEMORY

History = Sequence[Mapping[str, Any]]
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
        alone, both = strangers(prepared.root.path, 1), strangers(prepared.root.path, 2)
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


def strangers(prepared: str, count: int) -> list[History]:
    """Run the loop in so many processes at once, with one thread each and the settings that Ray's workers get."""
    command = [sys.executable, __file__, "--plain", prepared]
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


def plain_torch(root: str) -> None:
    """Run the loop without Ray and print its history."""
    torch.set_num_threads(1)
    config, prepared = medray.FitConfig(**CONFIG), open_prepared(root)
    learner = Learner.fresh(prepared.plan, config)
    batches = Batches(open_cases(prepared, "train"), prepared.plan, config)
    run_epochs(learner, batches, open_cases(prepared, "val"), lambda record: None)
    print(json.dumps(learner.history))


def pace(history: History) -> float:
    """Return the median epoch's patches a second, all workers together."""
    return float(statistics.median(record["samples_per_second"] for record in history[1:]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain_torch(sys.argv[2])
    else:
        main()
