"""What do two workers gain over one, and does it matter whether they share a node?

The same cases, plan and steps under Ray Train with one worker on one core, with two workers on two cores of one node, and with
two workers on two simulated nodes of one core each. Each epoch's patches a second are compared, the first epoch left out. The
two settings with two workers draw the same patches, so that their losses must be equal.

A worker's patches are made in a thread, which would run on the second core, were it idle. So Ray's whole node is held to one
core for the one worker; what that worker does when both cores are its own is told beside it.

What the machine itself allows is measured, too: the same loop in one process of plain torch on one core, and in two at once, a
core each, that know nothing of one another. They share caches, memory and, on virtual machines, often arithmetic units.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

CORES = sorted(os.sched_getaffinity(0))[:2]
CONFIG: dict[str, Any] = {"epochs": 4, "steps": 20, "mixed": True, "picture": False}


def main() -> None:
    """Run the three settings and save the figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with one_node(CORES):
            write_brain_cohort(folder / "source", subjects=8, over=lambda function, numbers: stream(numbers, function))
            cohort = medray.ingest(folder / "source", folder / "cohort")
            prepared = medray.prepare(cohort, medray.plan(cohort), folder / "prepared")
            two, free = fitted(prepared, folder, "two", workers=2), fitted(prepared, folder, "free", workers=1)
        with one_node(CORES[:1]):
            one = fitted(prepared, folder, "one", workers=1)
        nodes = two_nodes(prepared.root.path, folder)
        alone, both = strangers(prepared, CORES[:1]), strangers(prepared, CORES)
    histories = {"one worker": one, "one worker, other core idle": free, "two workers": two, "two nodes": nodes}
    paces = {name: pace(history) for name, history in histories.items()}
    losses = {name: [record["loss"] for record in history] for name, history in (("two workers", two), ("two nodes", nodes))}
    machine = {"one process": sum(map(pace, alone)), "two processes": sum(map(pace, both))}
    save(
        "scaling",
        {
            "patches_per_second": paces,
            "ratio": paces["two workers"] / paces["one worker"],
            "ratio_to_one_with_both_cores": paces["two workers"] / paces["one worker, other core idle"],
            "ratio_two_nodes": paces["two nodes"] / paces["one worker"],
            "machine": machine,
            "ratio_of_machine": machine["two processes"] / machine["one process"],
            "losses": losses,
            "losses_equal": losses["two workers"] == losses["two nodes"],
        },
    )
    shown = {f"medray, {name}": value for name, value in paces.items()}
    shown |= {f"plain torch, {name}": value for name, value in machine.items()}
    bars("scaling", "patches of 64³ a second, U-Net, gloo", shown, "patches a second")


@contextmanager
def one_node(cores: Sequence[int]) -> Iterator[None]:
    """Start a Ray node all of whose processes are held to these cores."""
    os.sched_setaffinity(0, cores)
    ray.init(address="local", num_cpus=len(cores), include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        os.sched_setaffinity(0, CORES)


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


def strangers(prepared: Prepared, cores: Sequence[int]) -> list[History]:
    """Run the loop in a process a core at once, with the settings that Ray's workers get."""
    settings = {**KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
    running = [begin(prepared, CONFIG, threads=1, settings=settings) for _ in cores]
    for process, core in zip(running, cores, strict=True):
        os.sched_setaffinity(process.pid, [core])
    return [history_of(process) for process in running]


def pace(history: History) -> float:
    """Return the median epoch's patches a second, all workers together."""
    return float(statistics.median(record["samples_per_second"] for record in history[1:]))


if __name__ == "__main__":
    main()
