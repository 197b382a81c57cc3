"""What an endpoint says it serves, what it counts that nobody answered, and how old records may grow."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

import medray
from medray.errors import NotFoundError
from medray.monitoring.record import PredictionRecord
from medray.monitoring.records import days_of, records_root, write_records
from medray.registry.served import SERVED_S, served_until
from medray.registry.version import ModelVersion
from medray.serving.desk import DIED, Desk, Limits
from medray.serving.results import JSON, Reply
from medray.serving.sentinel import Sentinel
from medray.serving.ticket import Ticket
from medray.serving.upkeep import Upkeep

BALL, OTHER = ModelVersion.parse("ball/1"), ModelVersion.parse("ball/2")


class Handle:
    """Stands for Serve's handle; its one replica answers, or raises what it is made with."""

    def __init__(self, error=None):
        self._error = error

    def options(self, **facts):
        return self

    @property
    def track(self):
        return self

    answer = answer_all = answer_slowly = track

    async def remote(self, *words):
        if self._error is not None:
            raise self._error
        return Reply(200, JSON, b"{}")


class Counted:
    """Stands for the meters of a gateway."""

    def __init__(self):
        self.found = []

    def unanswered(self, *facts):
        self.found.append(facts)


def desk_of(error=None, **limits):
    handle: Any = Handle(error)
    meters: Any = Counted()
    return Desk(handle, medray.Registry(), Limits(**limits), meters), meters.found


@pytest.mark.parametrize(
    ("error", "reason"), [(BackPressureError(1, 1), "busy"), (RayActorError(), DIED), (TimeoutError(), "time-out")]
)
def test_what_no_replica_answers_is_counted(error, reason):
    desk, counted = desk_of(error)
    image = bytes(1 << 22)  # too large to be sent along with others
    assert asyncio.run(desk.ask(BALL, "segmentation", image, JSON)).title == reason
    patient: Any = None
    assert asyncio.run(desk.track(OTHER, patient, JSON)).status == 503
    assert counted == [("ball", 1, reason), ("ball", 2, reason)]


def test_of_a_copy_and_of_what_is_on_trial_nobody_waits():
    desk, counted = desk_of(BackPressureError(1, 1))
    for ticket in (Ticket(role="shadow"), Ticket(role="challenger"), Ticket(role="champion", beside="a", against=("kept",))):
        assert asyncio.run(desk.ask(BALL, "segmentation", bytes(1 << 22), JSON, ticket)).status == 503
    assert counted == []
    assert asyncio.run(desk.ask(BALL, "segmentation", bytes(1 << 22), JSON, Ticket(beside="a"))).status == 503
    assert counted == [("ball", 1, "busy")], "it answers in a challenger's place"


@pytest.mark.parametrize("error", [BackPressureError(1, 1), None])
def test_a_challenger_that_cannot_be_loaded_keeps_no_job_waiting(error):
    class Slow(Handle):
        """Stands for a handle whose calls say how far they are."""

        @property
        def answer_slowly(self):
            return self

        async def remote(self, *words):
            if self._error is not None:
                raise self._error
            yield 0.5
            yield Reply(503, JSON, b"{}")

    handle: Any = Slow(error)
    desk = Desk(handle, medray.Registry(), Limits())
    following = desk.follow(OTHER, "segmentation", b"", JSON, lambda share: None, Ticket(role="challenger"))
    assert asyncio.run(asyncio.wait_for(following, 5)).status == 503


def test_a_registry_that_is_away_ends_no_watch(monkeypatch, tmp_path):
    desk, _ = desk_of(models=("ball",))

    async def away(reference):
        raise OSError("the registry is away")

    monkeypatch.setattr(desk, "resolve", away)
    meters: Any = Counted()

    async def going():
        watch = asyncio.create_task(Sentinel(desk, str(tmp_path), 0.01, meters).run())
        await asyncio.sleep(0.2)
        assert not watch.done()
        watch.cancel()

    asyncio.run(going())


def test_an_answer_is_not(monkeypatch):
    desk, counted = desk_of()
    assert asyncio.run(desk.ask(BALL, "segmentation", bytes(1 << 22), JSON)).status == 200
    assert counted == []


def test_what_was_asked_a_while_ago_is_served_no_more(monkeypatch):
    desk, _ = desk_of(models=("nobody",))
    patient: Any = None

    async def asked():
        await desk.ask(BALL, "segmentation", bytes(1 << 22), JSON)
        await desk.track(OTHER, patient, JSON)
        return await desk.served()

    assert asyncio.run(asked()) == {"ball/1", "ball/2"}, "one that is to be kept loaded and is no more harms nobody"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + SERVED_S + 1)
    assert asyncio.run(desk.served()) == set()


def test_it_is_noted_and_old_records_go():
    now, root = datetime.now(UTC), records_root()
    days = [now - timedelta(days=age) for age in (0, 5, 40)]
    some = [
        PredictionRecord(id=f"r{number}", at=at, model="ball", version=1, task="segmentation") for number, at in enumerate(days)
    ]
    write_records(root, some, name="some")

    async def kept(days):
        desk, _ = desk_of(records_days=days)
        await desk.ask(BALL, "segmentation", bytes(1 << 22), JSON)
        upkeep = asyncio.create_task(Upkeep(desk, note_s=0.01).run())
        await asyncio.sleep(0.5)
        upkeep.cancel()

    asyncio.run(kept(0))
    assert len(days_of(root, "ball")) == 3
    assert served_until(medray.Registry().uri, "ball/1") > time.time()
    asyncio.run(kept(30))
    assert days_of(root, "ball") == sorted(at.date() for at in days[:2])


def test_an_outage_ends_nothing(monkeypatch):
    calls = []

    def away(*words):
        calls.append(words)
        raise NotFoundError("the database is away")

    monkeypatch.setattr("medray.serving.upkeep.note_served", away)

    async def going():
        desk, _ = desk_of()
        upkeep = asyncio.create_task(Upkeep(desk, note_s=0.01).run())
        await asyncio.sleep(0.3)
        assert not upkeep.done()
        upkeep.cancel()

    asyncio.run(going())
    assert len(calls) > 2
