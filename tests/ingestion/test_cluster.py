"""Workers, nodes and drivers die in the middle: nothing that was finished is done twice, and the cohort is the same."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import medray
from medray.audit import open_trail
from tests.phantoms import take_in_all, write_phantoms

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]

SERIES = 40


@pytest.fixture
def source(tmp_path):
    return write_phantoms(tmp_path / "s", subjects=SERIES)


def reads(*actions):
    return [event.target for action in actions for event in open_trail().events(action=action)]


def done(root):
    return len(list((root / "ledger").glob("done-*.json"))) if (root / "ledger").exists() else 0


CODE = """
import sys, time
import medray.ingestion.pipeline as pipeline
import medray

original = pipeline.take_in

def slowly(intake, item):
    time.sleep(0.25)
    return original(intake, item)

pipeline.take_in = slowly
medray.ingest(sys.argv[1], sys.argv[2])
"""


def start(source, root, **environment):
    command = [sys.executable, "-c", CODE, str(source), str(root)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)


def wait_for(root, count, process):
    deadline = time.monotonic() + 90
    while done(root) < count:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


def test_a_killed_driver_is_finished_by_the_next_run(local_ray, source, tmp_path):
    expected = take_in_all(source, tmp_path / "expected").index.id
    root = tmp_path / "c"
    process = start(source, root)
    wait_for(root, 8, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=5)
    for child in children:  # what outlives its driver was started by this test, too
        if child.is_running():
            child.kill()
    finished = done(root)
    assert 8 <= finished < SERIES
    cohort = medray.ingest(source, root)
    assert cohort.index.id == expected
    recovered, again = len(reads("ingest.recover")), reads("ingest.read")
    assert recovered >= finished
    assert len(again) == len(set(again))
    assert recovered + len(medray.open_cohort(root).rows) >= SERIES
    assert done(root) == 0, "what a commit has folded in is forgotten"


def test_a_killed_worker_costs_one_series_a_second_try(source, tmp_path):
    expected = take_in_all(source, tmp_path / "expected").index.id
    root = tmp_path / "c"
    process = start(source, root)
    wait_for(root, 6, process)
    workers = [
        child for child in psutil.Process(process.pid).children(recursive=True) if "ray::" in "".join(child.cmdline()[:1])
    ]
    busy = [worker for worker in workers if "Map" in "".join(worker.cmdline()[:1])] or workers
    busy[0].send_signal(signal.SIGKILL)
    assert process.wait(120) == 0
    assert medray.open_cohort(root).index.id == expected
    assert sorted(reads("ingest.read")) == sorted(set(reads("ingest.read")))


def test_a_killed_node_is_survived(source, tmp_path):
    from ray.cluster_utils import Cluster

    expected = take_in_all(source, tmp_path / "expected").index.id
    root = tmp_path / "c"
    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 500,
        "health_check_failure_threshold": 3,
    }
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20, "_system_config": quick}
    )
    try:
        doomed = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
        process = start(source, root, RAY_ADDRESS=cluster.address)
        wait_for(root, 6, process)
        cluster.remove_node(doomed, allow_graceful=False)
        assert process.wait(180) == 0
    finally:
        cluster.shutdown()
    assert medray.open_cohort(root).index.id == expected
    again = reads("ingest.read")
    assert len(again) == len(set(again)) == SERIES
