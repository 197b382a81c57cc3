import time

import pytest

from medray.errors import ConflictError, NotFoundError
from medray.registry.served import SERVED_S, note_served, served_until


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
