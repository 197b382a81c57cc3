import sqlite3
import sys
from subprocess import run

import pytest

from medray.registry.recall import Recall
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion

BALL = ModelVersion("ball", 1, ("champion",), "file:///models/ball")


@pytest.fixture
def database(tmp_path):
    def change(statement):
        with sqlite3.connect(tmp_path / "registry.db") as connection:
            connection.execute(statement)

    change("create table models (name text)")
    return f"sqlite:///{tmp_path}/registry.db", change


def test_what_was_found_is_kept_until_the_file_changes(database):
    uri, change = database
    assert not Recall.of(uri).found
    Recall.of(uri).keep("ball", BALL)
    Recall.of(uri).keep("ball@champion", BALL)
    assert Recall.of(uri).found == {"ball": BALL, "ball@champion": BALL}
    change("insert into models values ('ball')")
    assert not Recall.of(uri).found


def test_what_was_asked_before_a_change_is_not_kept_after_it(database):
    uri, change = database
    asked = Recall.of(uri)
    change("insert into models values ('ball')")
    asked.keep("ball", BALL)
    assert not Recall.of(uri).found


def test_changes_that_sqlite_writes_beside_the_file_are_not_kept_of(database):
    uri, change = database
    change("pragma journal_mode = wal")
    Recall.of(uri).keep("ball", BALL)
    assert not Recall.of(uri).found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": [1]}', "not json"])
def test_a_damaged_file_is_written_anew(database, tmp_path, text):
    uri, _ = database
    Recall.of(uri).keep("ball", BALL)
    (tmp_path / "registry.db.recall.json").write_text(text)
    assert not Recall.of(uri).found
    Recall.of(uri).keep("ball", BALL)
    assert Recall.of(uri).found


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/registry.db", "http://127.0.0.1:1", "postgresql://db/mlflow"])
def test_nothing_is_kept_of_what_is_not_a_file(uri):
    Recall.of(uri).keep("ball", BALL)
    assert Recall.of(uri) == Recall()


def test_a_model_that_is_known_is_found_without_mlflow(stored_in_sqlite):
    store, card, folder = stored_in_sqlite
    store.register(card, folder)
    store.promote("ball/1")
    wanted = str(store.fetch("ball"))
    code = f"""
import sys
from medray.registry.registry import Registry
print(Registry({store.uri!r}).fetch("ball"), "mlflow" in sys.modules)
"""
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == [wanted, "False"]


def test_a_moved_alias_is_seen_at_once(stored_in_sqlite):
    store, card, folder = stored_in_sqlite
    store.register(card, folder)
    store.register(card, folder)
    for version in (1, 2, 1):
        Registry(store.uri).promote(f"ball/{version}")
        assert Registry(store.uri).resolve("ball").version == version
        assert Registry(store.uri).resolve("ball@champion").version == version
    assert {"ball", "ball@champion"} <= set(Recall.of(store.uri).found)
