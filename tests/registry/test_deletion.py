import time
from dataclasses import replace

import pytest

from medray.errors import ConflictError, NotFoundError
from medray.registry.served import SERVED_S, note_served, served_until
from medray.storage.location import locate


def test_only_what_nothing_serves_is_deleted(stored, monkeypatch):
    store, card, folder = stored
    for _ in range(3):
        store.register(card, folder)
    with pytest.raises(ConflictError, match="what ball means"):
        store.delete("ball/3")
    store.promote("ball/1")
    with pytest.raises(ConflictError, match="is champion"):
        store.delete("ball/1")
    note_served(store.uri, ["ball/2"])
    with pytest.raises(ConflictError, match="served"):
        store.delete("ball/2")
    place = store.fetch("ball/3")
    store.delete("ball/3", why="never used")
    assert not place.exists()
    with pytest.raises(NotFoundError):
        store.resolve("ball/3")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SERVED_S + 1)
    store.delete("ball/2")
    assert [item.version for item in store.versions("ball")] == [1]
    assert store.resolve("ball").version == 1


def test_a_number_is_never_given_twice(stored):
    store, card, folder = stored
    store.register(card, folder)
    store.promote("ball/1")
    store.register(card, folder)
    store.delete("ball/2")
    assert str(store.register(card, folder)) == "ball/3"


def test_each_registry_has_its_own_list(stored):
    store, _, _ = stored
    assert served_until(store.uri, "ball/1") == 0
    note_served(store.uri, ["ball/1"])
    assert served_until(store.uri, "ball/1") > time.time()
    assert served_until("sqlite:///another", "ball/1") == 0


def test_a_rollback_passes_over_what_was_deleted(stored):
    store, card, folder = stored
    for number in (1, 2, 3):
        store.promote(str(store.register(replace(card, created=f"202{number}"), folder)))
    store.delete("ball/2")
    assert str(store.rollback("ball")) == "ball/1"
    store.promote("ball/3")
    store.delete("ball/1")
    with pytest.raises(ConflictError, match="nothing to go back to"):
        store.rollback("ball")


def test_nothing_of_a_version_is_left(stored, tmp_path):
    store, card, folder = stored
    store.promote(str(store.register(card, folder)))
    pictures = locate(tmp_path / "pictures")
    pictures.join("epoch-0001.png").write(b"a picture")
    with store.tracking("ball") as tracking:
        tracking.pictures(pictures)
        version = store.register(replace(card, created="2027"), folder, tracking=tracking)
    store.beside(version).keep("reference.parquet", b"a reference")

    def left():
        """Folders that have something; some object stores go on naming those that have nothing."""
        entries = store._client.list_artifacts(tracking.run)
        return sorted(entry.path for entry in entries if store._client.list_artifacts(tracking.run, entry.path))

    assert left() == ["beside", "model", "pictures"]
    store.beside(version).discard_pictures()
    store.beside(version).discard_pictures()
    assert left() == ["beside", "model"]
    fetched = store.fetch(version)
    store.delete(str(version))
    assert left() == []
    assert not fetched.exists()
    assert store.fetch("ball/1").exists()
