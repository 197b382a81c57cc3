"""Fits whose workers and nodes are killed: what they leave is what an unbroken fit leaves.

One cluster for all, since starting it is what takes the time; each test makes up for the nodes that those before it lost.
"""

import contextlib
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

import medray
from tests.phantoms import SMALL_PLAN

pytestmark = [pytest.mark.ray, pytest.mark.cluster]
SHORT: dict[str, Any] = {"epochs": 4, "steps": 6, "mixed": False}
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


@dataclass
class Nodes:
    """A head that computes nothing, and nodes of one core."""

    cluster: Any
    members: list[Any] = field(default_factory=list)

    def make(self, count):
        while len(self.members) < count:
            self.members.append(self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20))

    def lose(self, node):
        self.members.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def busy(self):
        """A node on which a worker trains."""
        parents = {worker.ppid() for worker in train_workers()}
        return next(node for node in self.members if node.all_processes["raylet"][0].process.pid in parents)


@pytest.fixture(scope="module")
def nodes():
    ray.shutdown()
    head = {"num_cpus": 0, "object_store_memory": 100 << 20, "_system_config": QUICK}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        made = Nodes(cluster)
        made.make(3)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def prepared(nodes, phantom_cohort, tmp_path_factory):
    return medray.prepare(phantom_cohort, medray.plan(phantom_cohort, changes=SMALL_PLAN), tmp_path_factory.mktemp("p"))


@pytest.fixture(scope="module")
def unbroken(prepared, tmp_path_factory):
    return fitted(prepared, tmp_path_factory.mktemp("unbroken"), workers=2)


def fitted(prepared, folder, *, workers, on_epoch=lambda record: None):
    config = medray.FitConfig(**SHORT)
    run = medray.fit(prepared, config, name="ball", workers=workers, cpus=1, gpu=False, runs=folder, on_epoch=on_epoch)
    return run, load_file(folder / "ball" / "1" / "model" / "weights.safetensors")


def train_workers():
    """The processes that train, all of them descendants of this one."""
    found = []
    for child in psutil.Process(os.getpid()).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in "".join(child.cmdline()[:1]):
                found.append(child)
    return found


def assert_same(broken, unbroken, told):
    """It ended in the same weights, and what was done an epoch before the kill wasn't done again."""
    (run, found), (expected, weights) = broken, unbroken
    assert run.history[0]["began"] == told[0]["began"]
    assert [record["loss"] for record in run.history] == [record["loss"] for record in expected.history]
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_worker_takes_the_cores_of_one_node(nodes, prepared, tmp_path):
    run = medray.fit(prepared, medray.FitConfig(epochs=1, steps=1, picture=False), name="ball", gpu=False, runs=tmp_path)
    assert run.record["hardware"]["threads"] == 1, "three nodes of one core have none of three"


def test_a_killed_worker_changes_nothing_in_the_end(nodes, prepared, unbroken, tmp_path):
    killed: list[Any] = []
    told: list[Any] = []

    def kill(record):
        told.append(record)
        if record["epoch"] == 1 and not killed:
            killed.extend(train_workers()[:1])
            killed[0].kill()

    broken = fitted(prepared, tmp_path, workers=2, on_epoch=kill)
    assert killed
    assert_same(broken, unbroken, told)


def test_workers_killed_as_they_start_cost_a_fit_nothing(nodes, prepared, tmp_path):
    delays, ended = [0.0, 0.5], threading.Event()
    killed: set[int] = set()

    def kill():
        while delays and not ended.wait(0.02):
            if new := [worker for worker in train_workers() if worker.pid not in killed]:
                killed.add(new[0].pid)
                ended.wait(delays.pop())
                new[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        run, _ = fitted(prepared, tmp_path, workers=1)
    finally:
        ended.set()
        killer.join()
    assert len(killed) == 2
    assert [record["epoch"] for record in run.history] == [0, 1, 2, 3]


def test_a_killed_node_changes_nothing_in_the_end(nodes, prepared, unbroken, tmp_path):
    nodes.make(3)
    told: list[Any] = []

    def lose(record):
        told.append(record)
        if record["epoch"] == 1 and len(nodes.members) == 3:
            nodes.lose(nodes.busy())

    broken = fitted(prepared, tmp_path, workers=2, on_epoch=lose)
    assert len(nodes.members) == 2
    assert_same(broken, unbroken, told)


@pytest.mark.slow
def test_an_elastic_fit_goes_on_with_the_worker_that_is_left(nodes, prepared, tmp_path):
    nodes.make(2)

    def lose(record):
        if record["epoch"] == 1:
            while len(nodes.members) > 1:
                nodes.lose(nodes.members[-1])

    run, _ = fitted(prepared, tmp_path, workers=(1, 2), on_epoch=lose)
    assert [record["epoch"] for record in run.history] == [0, 1, 2, 3]
    assert run.history[0]["workers"] == 2
    assert run.history[-1]["workers"] == 1
