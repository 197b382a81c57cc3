"""Dashboards and alert rules against a real Prometheus that scrapes a real run."""

import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import medray
from medray.inference.baseline import keep_reference
from medray.monitoring.metrics import METRICS
from medray.monitoring.records import read_records, records_root
from tests.ports import free_port
from tests.services import end, wait_for
from tests.serving.test_traffic import home, scan  # noqa: F401 - a fixture
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.services,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]
OBSERVABILITY = Path(__file__).parents[2] / "cluster" / "observability"
WITHOUT_DATA = {"ray_node_gpus_utilization", 'status=~"5.."', "ray_medray_probability", "ray_medray_unanswered"}
"""What isn't there on a machine without a GPU, where nothing fails, and of a segmentation."""


def rules():
    return [rule for group in yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def panels():
    return json.loads((OBSERVABILITY / "models.dashboard.json").read_text())["panels"]


def expressions():
    """Every expression of the dashboard, with what Grafana puts in."""
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
            yield panel["title"], expr


def expected_without(expr):
    return any(word in expr for word in WITHOUT_DATA)


@contextlib.contextmanager
def prometheus(folder, target):
    port = free_port()
    settings = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/-/ready", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def asked(url, query):
    reply = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30).json()
    assert reply["status"] == "success", (query, reply)
    return reply["data"]["result"]


def promtool(*words):
    return subprocess.run(["promtool", "check", *words], capture_output=True, text=True, check=False)


def test_rules_and_settings_are_what_promtool_takes(tmp_path):
    done = promtool("rules", OBSERVABILITY / "alerts.yml")
    assert done.returncode == 0, done.stderr
    shutil.copytree(OBSERVABILITY, tmp_path / "observability")
    done = promtool("config", tmp_path / "observability" / "prometheus.yml")
    assert done.returncode == 0, done.stderr


def test_every_metric_of_ours_is_shown_and_no_other():
    text = (OBSERVABILITY / "models.dashboard.json").read_text() + (OBSERVABILITY / "alerts.yml").read_text()
    used = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in re.findall(r"ray_(medray_\w+)", text)}
    assert used <= METRICS.keys()
    assert METRICS.keys() - used <= {"medray_drift_studies"}
    assert all(rule["annotations"].keys() == {"summary", "action"} for rule in rules())


def test_each_expression_finds_what_a_real_run_exports(home, tmp_path, monkeypatch):  # noqa: F811
    import ray

    monkeypatch.setenv("MEDRAY_HOME", str(home))
    port = free_port()
    ray.shutdown()
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=300 << 20, _metrics_export_port=port,
    )  # fmt: skip
    store = medray.Registry()
    store.promote("ball/3", "shadow")
    try:
        settings: dict[str, Any] = {"insecure": True, "records_s": 0.3, "watch_s": 1, "refresh_s": 0.2}
        with medray.deploy(["ball"], port=free_port(), **settings) as running, prometheus(tmp_path, f"127.0.0.1:{port}") as url:

            def ask(body=None):
                return httpx.post(f"{running.url}/v1/segment/ball", content=body or scan(3), timeout=60).status_code

            def recorded():
                ask()
                return [one for one in read_records(records_root(), "ball") if one.numbers and one.role == "champion"]

            wait_until(lambda: len(recorded()) >= 30, seconds=120)
            keep_reference("ball/1", recorded()[:6], registry=store)
            refused = scan(3)[:300]

            missing: set[str] = set()

            def complete():
                ask()
                ask(refused)
                missing.clear()
                missing.update(title for title, expr in expressions() if not expected_without(expr) and not asked(url, expr))
                return not missing

            try:
                wait_until(complete, seconds=120)
            except AssertionError:
                pytest.fail(f"nothing is shown of {missing}")
            for _, expr in expressions():
                asked(url, expr)
            for rule in rules():
                asked(url, rule["expr"])
            assert asked(url, 'ray_medray_predictions_total{role="shadow"}'), "the shadow is seen beside the champion"
    finally:
        store.withdraw("ball/3", "shadow")
        ray.shutdown()
