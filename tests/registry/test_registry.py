from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from medray.errors import ConfigError, NotFoundError
from medray.registry.version import ModelVersion


def test_versions_aliases_and_references(stored):
    store, card, folder = stored
    first, second = store.register(card, folder), store.register(card, folder)
    assert (str(first), str(second)) == ("ball/1", "ball/2")
    assert store.resolve("ball").version == 2
    store.promote("ball/1")
    assert store.resolve("ball").version == 1
    assert store.resolve("ball@champion").version == 1
    assert store.resolve("ball/2").version == 2
    store.promote("ball/2")
    assert [item.aliases for item in store.versions("ball")] == [(), ("champion",)]
    assert store.names() == ["ball"]


def test_a_run_of_another_machine_may_have_the_same_path(stored):
    store, card, folder = stored
    card = replace(card, lineage={**card.lineage, "run": "/runs/ball/1"})
    assert [store.register(card, folder).version for _ in range(2)] == [1, 1], "retried"
    folder.join("weights.safetensors").write(folder.join("weights.safetensors").read() + b" ")
    assert store.register(card, folder).version == 2


def test_what_was_registered_is_what_is_fetched(stored):
    store, card, folder = stored
    store.register(card, folder)
    place = store.fetch("ball/1")
    assert (place / "weights.safetensors").read_bytes() == folder.join("weights.safetensors").read()
    assert not (place / "calibration.json").exists()
    assert store.card("ball") == card
    folder.join("calibration.json").write(b"{}")
    store.register(card, folder)
    assert (store.fetch("ball/2") / "calibration.json").read_bytes() == b"{}"


def test_a_version_elsewhere_is_fetched_once_a_node(stored_in_sqlite, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path / "node"))
    store, card, folder = stored_in_sqlite
    there = store.fetch(store.register(card, folder))
    elsewhere = ModelVersion("ball", 1, (), f"file://localhost{there}")  # MLflow's to fetch, as s3:// is
    with ThreadPoolExecutor(4) as processes:
        places = list(processes.map(lambda _: store.fetch(elsewhere), range(8)))
    assert set(places) == {places[0]}
    assert places[0].is_relative_to(tmp_path / "node")
    assert {file.name: file.read_bytes() for file in places[0].iterdir()} == {
        file.name: file.read_bytes() for file in there.iterdir()
    }
    assert [found.name for found in places[0].parent.iterdir()] == [places[0].name], "nothing half is left"
    marked = places[0] / "plan.json"
    marked.write_text("kept")
    assert (store.fetch(elsewhere) / "plan.json").read_text() == "kept"


def test_a_fit_is_followed_in_the_run_that_its_model_ends_in(stored):
    store, card, folder = stored
    with store.tracking("ball") as tracking:
        for epoch in range(3):
            tracking.epoch({"epoch": epoch, "loss": 1.0 / (epoch + 1), "score": 0.5, "scores": {"tumour (core)": 0.4}})
        version = store.register(card, folder, tracking=tracking)
    client = store._client
    run = client.get_run(tracking.run)
    assert run.info.status == "FINISHED"
    assert tracking.run in version.source
    assert [point.value for point in client.get_metric_history(tracking.run, "loss")] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert run.data.metrics["val.tumour _core_"] == 0.4
    assert run.data.metrics["test.ball.best"] == 0.9


def test_a_fit_that_fails_is_marked_so(stored):
    store, _, _ = stored

    def fail():
        with store.tracking("ball") as tracking:
            runs.append(tracking.run)
            raise KeyboardInterrupt

    runs: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert store._client.get_run(runs[0]).info.status == "FAILED"


@pytest.mark.parametrize("reference", ["none", "ball/7", "ball@none"])
def test_what_isn_t_there_is_named(stored, reference):
    store, card, folder = stored
    store.register(card, folder)
    with pytest.raises(NotFoundError, match="medray models list"):
        store.resolve(reference)


@pytest.mark.parametrize("reference", ["", "Ball", "a/b", "a@b/1", "../x", "a' OR '1'='1"])
def test_malformed_references_are_refused(stored, reference):
    with pytest.raises(ConfigError, match="name, name@alias or name/version"):
        stored[0].resolve(reference)
