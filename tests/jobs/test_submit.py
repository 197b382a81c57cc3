"""``ray job submit -- python jobs/….py`` against a real ``ray start --head``: ingest and fit."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from medray.cohort.cohort import open_cohort
from medray.cohort.splits import Split
from medray.preprocessing.planning import plan
from medray.preprocessing.prepare import Preparation, prepare_case
from medray.preprocessing.prepared import CaseRow, commit_prepared
from medray.registry.registry import Registry
from medray.storage.location import locate
from tests.phantoms import SMALL_PLAN
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@contextmanager
def ray_head():
    """Start a head node and end exactly the processes that it started."""
    dashboard = free_port()
    place = tempfile.mkdtemp(prefix="rh")
    words = ["start", "--head", "--block", f"--port={free_port()}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    words += [f"--temp-dir={place}", "--object-store-memory=300000000", f"--ray-client-server-port={free_port()}"]
    words += [f"--dashboard-agent-listen-port={free_port()}"]  # the default is one for all clusters of a machine
    said = Path(place) / "said"
    with said.open("w") as out:
        process = subprocess.Popen([BIN / "ray", *words], stdout=out, stderr=subprocess.STDOUT)
    head = psutil.Process(process.pid)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_until(lambda: answers(url) or process.poll() is not None, seconds=120)
        assert process.poll() is None, said.read_text()[-2000:]
        yield url
    finally:
        family = [*head.children(recursive=True), head] if head.is_running() else []
        for member in family:
            if member.is_running():
                member.kill()
        psutil.wait_procs(family, timeout=10)


def answers(url):
    try:
        return httpx.get(f"{url}/api/version").status_code == 200
    except httpx.TransportError:
        return False


def submit(url, script, **settings):
    words = [f"{key}={value}" for key, value in settings.items()]
    environment = json.dumps({"env_vars": {"MEDRAY_KEY": os.environ["MEDRAY_KEY"], "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}})
    command = [BIN / "ray", "job", "submit", "--address", url, "--working-dir", "jobs", "--runtime-env-json", environment]
    done = subprocess.run(
        [*command, "--", sys.executable, script, *words], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return next(json.loads(line) for line in reversed(done.stdout.splitlines()) if line.startswith("{"))


def prepared_phantoms(cohort, folder):
    recipe = plan(cohort, changes=SMALL_PLAN)
    work = Preparation(cohort, recipe, locate(folder))
    splits: list[Split] = ["train", "train", "train", "train", "train", "train", "val", "val", "test"]
    rows = tuple(
        CaseRow(series=row.series, subject=row.subject, split=split, file=prepare_case(work, row)[1])
        for row, split in zip(cohort.rows, splits, strict=True)
    )
    commit_prepared(work.target, cohort.index.id, recipe, rows)
    return folder


@pytest.mark.slow
def test_ingest_fit_and_predict_as_jobs(phantom_source, phantom_cohort, tmp_path):
    prepared = prepared_phantoms(phantom_cohort, tmp_path / "prepared")
    store = f"sqlite:///{tmp_path}/registry.db"
    with ray_head() as url:
        report = submit(url, "ingest.py", source=phantom_source, root=tmp_path / "cohort")
        assert report["cohort"] == phantom_cohort.index.id == open_cohort(tmp_path / "cohort").index.id
        report = submit(
            url, "fit.py", prepared=prepared, name="ball", runs=tmp_path / "runs", registry=store, promote="champion",
            **{"fit.epochs": 2, "fit.steps": 2},
        )  # fmt: skip
        masks = submit(
            url,
            "predict.py",
            model="ball",
            source=phantom_source,
            output=tmp_path / "masks",
            registry=store,
            runtime="openvino",
        )
    assert report["model"] == "ball/1"
    assert masks["predicted"] >= len(phantom_cohort.rows)
    assert len(list((tmp_path / "masks" / "images").rglob("*.nii.gz"))) == masks["predicted"]
    assert Registry(store).resolve("ball@champion").version == 1
