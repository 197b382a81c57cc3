import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medray.audit import Event, open_trail
from medray.errors import ConfigError, StorageError
from tests.services import postgres_server


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'audit.db'}")
    return tmp_path / "audit.db"


def fill(count=6):
    trail = open_trail()
    trail.record([Event("ingest.read", f"s{number}", "ok") for number in range(count)])
    return trail


def change(database, statement):
    with sqlite3.connect(database) as connection:
        connection.execute(statement)
    connection.close()


def test_a_whole_trail_verifies_and_says_who(database):
    trail = fill()
    verdict = trail.verify()
    assert (verdict.events, verdict.keyed, verdict.problems) == (6, 6, ())
    assert verdict.head == trail.head()
    event = next(trail.events(action="ingest.read"))
    assert "@" in event.actor
    assert event.at.endswith("+00:00")
    assert list(trail.events(action="none")) == []


TAMPERING = {
    "edited": ("UPDATE audit_events SET outcome = 'fine' WHERE number = 3", "event 3 was changed"),
    "backdated": ("UPDATE audit_events SET at = '2020-01-01' WHERE number = 2", "event 2 was changed"),
    "removed": ("DELETE FROM audit_events WHERE number = 4", "events 4 to 4 are missing"),
    "last removed": ("DELETE FROM audit_events WHERE number = 6", "ends at event 5 and should end at 6"),
    "first removed": ("DELETE FROM audit_events WHERE number = 1", "events 1 to 1 are missing"),
    "emptied": ("DELETE FROM audit_events", "ends at event 0 and should end at 6"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_found(database, what):
    trail = fill()
    statement, message = TAMPERING[what]
    change(database, statement)
    problems = trail.verify().problems
    assert any(message in problem for problem in problems), problems


def test_reordering_is_found(database):
    trail = fill()
    for statement in (
        "SET number = 99 WHERE number = 2",
        "SET number = 2 WHERE number = 3",
        "SET number = 3 WHERE number = 99",
    ):
        change(database, f"UPDATE audit_events {statement}")
    assert any("event 2 was changed, moved" in problem for problem in trail.verify().problems)


def test_a_chain_made_again_without_the_key_is_found(database, monkeypatch):
    """Whoever can write the database can hash; without the key it isn't the same hash."""
    trail = fill()
    anchor = trail.head()
    for table in ("audit_events", "audit_head"):
        change(database, f"DELETE FROM {table}")
    monkeypatch.delenv("MEDRAY_KEY")
    open_trail().record([Event("ingest.read", "forged")])
    monkeypatch.setenv("MEDRAY_KEY", "5a" * 32)
    verdict = open_trail().verify(anchor=anchor)
    assert verdict.keyed < verdict.events
    assert any("anchor" in problem for problem in verdict.problems)
    assert any("head isn't bound by the key" in problem for problem in open_trail().verify().problems), "without an anchor, too"


def test_a_database_that_fails_is_a_storage_error(database):
    trail = fill()
    change(database, "DROP TABLE audit_head")
    change(database, "DROP TABLE audit_events")
    for attempt in (trail.head, trail.verify, lambda: list(trail.events()), lambda: trail.record([Event("x", "y")])):
        with pytest.raises(StorageError, match="the audit trail can't be"):
            attempt()


def test_another_key_is_named(database, monkeypatch):
    fill()
    monkeypatch.setenv("MEDRAY_KEY", "6b" * 32)
    assert "bound by another key" in open_trail().verify().problems[0]


def test_trails_work_without_a_key(database, monkeypatch):
    monkeypatch.delenv("MEDRAY_KEY")
    trail = fill()
    assert (trail.verify().keyed, trail.verify().problems) == (0, ())


def _append(url, number):
    import os

    os.environ["MEDRAY_DATABASE_URL"] = url
    from medray.audit import Event, open_trail

    for turn in range(20):
        open_trail().record([Event("x", f"{number}-{turn}"), Event("y", f"{number}-{turn}")])


def test_processes_chain_to_one_trail(database):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(f"sqlite:///{database}", number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    verdict = open_trail().verify()
    assert (verdict.events, verdict.problems) == (120, ())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_any_text_survives(database, texts):
    trail = open_trail()
    trail.record([Event("x", text[:100], detail=text) for text in texts])
    assert trail.verify().problems == ()


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "sqlite:////no/such/folder/x.db"])
def test_a_bad_url_is_told(url, monkeypatch):
    monkeypatch.setenv("MEDRAY_DATABASE_URL", url)
    with pytest.raises(ConfigError, match="MEDRAY_DATABASE_URL"):
        open_trail()


def test_a_trail_is_verified_while_others_write(database, monkeypatch):
    """Page by page: nobody who writes waits for who reads, and what comes meanwhile is no fault."""
    monkeypatch.setattr("medray.audit.VERIFIED_AT_ONCE", 3)
    trail, reader = fill(10), open_trail()
    rows = reader._rows()
    assert next(rows)["number"] == 1
    trail.record([Event("ingest.read", "late")])
    assert len(list(rows)) == 10
    real = reader._head
    written: list[None] = []

    def head():
        found = real()
        if len(written) < 3:
            written.append(trail.record([Event("ingest.read", "later")]))
        return found

    monkeypatch.setattr(reader, "_head", head)
    verdict = reader.verify()
    assert (verdict.events, verdict.problems) == (14, ())
    assert [event.target for event in reader.events()][-1] == "later"


POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.mark.services
@pytest.mark.skipif(not POSTGRES, reason="postgresql is not installed")
def test_a_trail_in_postgresql(tmp_path, monkeypatch):
    """The same chain, with several processes at a time, in a real PostgreSQL."""
    with postgres_server(tmp_path, POSTGRES[-1].parent) as url:
        monkeypatch.setenv("MEDRAY_DATABASE_URL", url)
        fill()
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_append, args=(url, number)) for number in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        trail = open_trail()
        assert (trail.verify().events, trail.verify().problems) == (126, ())
        with trail._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE audit_events SET outcome = 'fine' WHERE number = 50")
        assert "event 50 was changed" in trail.verify().problems[0]
        trail._engine.dispose()


def test_a_trail_that_was_cut_or_rewritten_without_the_key_is_found(database):
    fill()
    change(database, "DELETE FROM audit_events WHERE number > 3")
    change(database, "UPDATE audit_head SET number = 3, digest = (SELECT digest FROM audit_events WHERE number = 3)")
    assert any("head isn't bound by the key" in problem for problem in open_trail().verify().problems)


def test_an_event_without_the_key_among_bound_ones_is_named(database, monkeypatch):
    fill(2)
    monkeypatch.delenv("MEDRAY_KEY")
    fill(1)
    monkeypatch.setenv("MEDRAY_KEY", "5a" * 32)
    assert any("event 3 isn't bound by a key" in problem for problem in open_trail().verify().problems)
