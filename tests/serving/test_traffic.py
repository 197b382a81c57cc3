"""Shadows, canaries and rollbacks, on a real endpoint: nobody's request is lost."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest

import medray
from medray.audit import open_trail
from medray.errors import NotFoundError
from medray.formats.nifti import write_nifti
from medray.monitoring.records import read_records, records_root
from medray.registry.card import ModelCard
from medray.registry.rollout import Canary, Rollout
from medray.serving.desk import DIED, LATE, Limits
from medray.serving.jobs import OVER
from medray.serving.results import JSON, Reply, problem
from medray.serving.traffic import Asked, Traffic, _drawn
from medray.storage.location import locate
from tests.inference.test_predictor import model_folder, untrained
from tests.phantoms import grid, orientations, phantom
from tests.ports import free_port
from tests.services import ray_with
from tests.waiting import wait_until

pytestmark = pytest.mark.ray
SAME, OTHER, FAILS = 2, 3, 4
PATIENT = Canary(share=0.5, slower=50)
"""Untrained networks of eight channels: here the time of one says nothing."""


def scan(seed):
    return write_nifti(phantom(np.random.default_rng(seed), grid(list(orientations())[seed], (2.0, 2.0, 2.5), (5, 4, 3)))[0])


@pytest.fixture(scope="module")
def home(phantom_cohort, tmp_path_factory):
    """``ball``: the champion, the same once more, one with other weights, and one that is for images of two channels."""
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(place))
        store = medray.Registry()
        folders = [model_folder(place / f"m{number}", phantom_cohort, seed=seed) for number, seed in enumerate((0, 0, 1))]
        plan = medray.Predictor.load(folders[0]).plan
        folders.append(untrained(place / "m3", replace(plan, channels=2)))
        for folder in folders:
            recipe = medray.Predictor.load(folder).plan
            store.register(ModelCard(name="ball", created="2026", plan=recipe, scores={}, subjects={}), locate(folder))
        store.promote("ball/1")
    return place


@pytest.fixture(scope="module")
def url(home):
    with ray_with({"MEDRAY_HOME": str(home)}), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(home))
        settings: dict[str, Any] = {"insecure": True, "records_s": 0.3, "refresh_s": 0.2, "models_mb": 4096}
        with medray.deploy(["ball"], port=free_port(), **settings) as running:
            yield running.url


@pytest.fixture
def store(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    registry = medray.Registry()
    yield registry
    for version in registry.versions("ball"):
        for alias in {"challenger", "shadow"} & set(version.aliases):
            registry.withdraw(str(version), alias)


def asked(url, body, model="ball", **headers):
    return httpx.post(f"{url}/v1/segment/{model}", content=body, headers=headers, timeout=60)


def many(url, count, **headers):
    with ThreadPoolExecutor(4) as callers:
        return list(callers.map(lambda number: asked(url, scan(3 + number % 20), **headers), range(count)))


def started(url, who):
    """Ask until the endpoint knows of a rollout: whoever answers who asks for the challenger."""
    wait_until(lambda: asked(url, scan(3), **{"X-Medray-Canary": "always"}).headers["x-medray-model"] == who)


def test_a_challenger_answers_its_share_and_whoever_asks_for_it(url, store):
    store.challenge(f"ball/{SAME}", PATIENT)
    started(url, f"ball/{SAME}")
    models = [reply.headers["x-medray-model"] for reply in many(url, 60)]
    assert 15 <= models.count(f"ball/{SAME}") <= 45
    assert set(models) == {"ball/1", f"ball/{SAME}"}
    for wish, who in (("always", f"ball/{SAME}"), ("never", "ball/1")):
        replies = many(url, 10, **{"X-Medray-Canary": wish})
        assert {reply.headers["x-medray-model"] for reply in replies} == {who}
    named = [asked(url, scan(3), "ball/1"), asked(url, scan(3), f"ball/{OTHER}")]
    assert [reply.headers["x-medray-model"] for reply in named] == ["ball/1", f"ball/{OTHER}"], "who is named answers"
    assert store.rollout("ball").challenger is not None, "it does what the champion does, and stays"


def test_viewers_take_part(url, store):
    store.challenge(f"ball/{SAME}", PATIENT)
    started(url, f"ball/{SAME}")
    for wish, who in (("always", f"ball/{SAME}"), ("never", "ball/1")):
        file = {"file": ("scan.nii.gz", scan(3))}
        reply = httpx.post(f"{url}/monailabel/infer/ball", files=file, headers={"X-Medray-Canary": wish}, timeout=60)
        assert (reply.status_code, reply.headers["x-medray-model"]) == (200, who)


def test_what_is_answered_later_takes_part(url, store):
    store.challenge(f"ball/{SAME}", PATIENT)
    started(url, f"ball/{SAME}")

    def answered(model, number, **headers):
        headers = {"Prefer": "respond-async", **headers}
        job = f"{url}{asked(url, scan(3 + number % 20), model, **headers).headers['location']}"
        wait_until(lambda: httpx.get(job).json()["state"] in OVER, seconds=60)
        assert httpx.get(job).json()["state"] == "done"
        return httpx.get(f"{job}/result").headers["x-medray-model"]

    with ThreadPoolExecutor(4) as callers:
        models = list(callers.map(partial(answered, "ball"), range(24)))
    assert set(models) == {"ball/1", f"ball/{SAME}"}
    assert {answered("ball/1", number) for number in range(4)} == {"ball/1"}, "who is named answers"
    for wish, who in (("always", f"ball/{SAME}"), ("never", "ball/1")):
        assert {answered("ball", number, **{"X-Medray-Canary": wish}) for number in range(4)} == {who}
    store.withdraw(f"ball/{SAME}")
    store.challenge(f"ball/{FAILS}", replace(PATIENT, share=1))
    started(url, "ball/1")
    assert {answered("ball", number) for number in range(3)} == {"ball/1"}, "what it can't answer the champion does"


def test_begun_again_it_is_answered_by_the_same_version(store):
    canary = replace(PATIENT, share=0.3, since="2026-11-28")
    rollout = Rollout(champion=store.resolve("ball/1"), challenger=store.resolve(f"ball/{SAME}"), canary=canary)
    first = [_drawn(f"key {number}", rollout) for number in range(2000)]
    assert first == [_drawn(f"key {number}", rollout) for number in range(2000)]
    assert sum(first) / len(first) == pytest.approx(0.3, abs=0.04)
    later = replace(rollout, canary=replace(canary, since="2026-11-29"))
    assert first != [_drawn(f"key {number}", later) for number in range(2000)], "another trial has others"


def test_a_shadow_s_answers_are_compared_and_never_seen(url, store):
    started(url, "ball/1")
    store.promote(f"ball/{OTHER}", "shadow")
    before = time.time()

    def shadows():
        replies = many(url, 8)
        assert {reply.headers["x-medray-model"] for reply in replies} == {"ball/1"}
        found = read_records(records_root(), "ball")
        return [one for one in found if one.role == "shadow" and one.agreement and one.at.timestamp() > before]

    wait_until(lambda: bool(shadows()), seconds=90)
    records = {one.id: one for one in read_records(records_root(), "ball")}
    for shadow in shadows():
        assert shadow.version == OTHER
        assert set(shadow.agreement) == {"ball", "core"}
        assert all(0 <= value <= 1 for value in shadow.agreement.values())
        beside = records.get(shadow.beside)
        assert beside is None or (beside.version, beside.input_sha256) == (1, shadow.input_sha256)


@pytest.mark.parametrize(("bad", "why"), [(OTHER, "agrees with the champion"), (FAILS, "failed at")])
def test_a_bad_challenger_is_taken_back_and_no_request_is_lost(url, store, bad, why):
    store.challenge(f"ball/{bad}", PATIENT)
    wait_until(lambda: store.rollout("ball").challenger is not None)
    statuses, deadline = [], time.monotonic() + 90
    while store.rollout("ball").challenger is not None and time.monotonic() < deadline:
        statuses += [reply.status_code for reply in many(url, 8)]
    assert set(statuses) == {200}
    assert store.rollout("ball").challenger is None
    with pytest.raises(NotFoundError):
        store.resolve("ball@challenger")
    event = [one for one in open_trail().events(action="model.withdraw") if one.actor == "medray canary"][-1]
    assert event.target == f"ball/{bad}"
    assert why in event.detail
    assert {reply.headers["x-medray-model"] for reply in many(url, 8, **{"X-Medray-Canary": "always"})} == {"ball/1"}


def test_one_that_is_put_back_gets_another_chance(url, store):
    store.challenge(f"ball/{OTHER}", replace(PATIENT, agreement=0.0))
    started(url, f"ball/{OTHER}")
    assert {reply.status_code for reply in many(url, 20)} == {200}
    assert store.rollout("ball").challenger is not None


def test_a_promotion_in_the_middle_of_traffic_loses_nothing(url, store):
    store.challenge(f"ball/{SAME}", PATIENT)
    started(url, f"ball/{SAME}")
    with ThreadPoolExecutor(1) as other:
        traffic = other.submit(many, url, 80)
        store.promote(f"ball/{SAME}")
        store.rollback("ball")
        replies = traffic.result()
    assert {reply.status_code for reply in replies} == {200}
    assert store.resolve("ball").version == 1


@pytest.mark.parametrize(("title", "stays"), [(DIED, False), (LATE, False), ("busy", True)])
def test_one_that_ends_its_replica_has_failed_and_one_that_is_busy_has_not(store, title, stays, monkeypatch):
    class Fatal:
        """Stands for a desk whose challenger's replicas end, or are busy."""

        registry, limits = store, Limits(refresh_s=60)

        async def ask(self, version, task, image, media_type, ticket=None):
            if version.version == OTHER:
                return problem(503, title, "")
            return Reply(200, JSON, b"{}")

    desk: Any = Fatal()

    async def asked(traffic):
        champion = store.resolve("ball/1")
        replies = [await traffic.ask("ball", champion, Asked("segmentation", b"", JSON), "") for _ in range(40)]
        await asyncio.sleep(1)
        assert {reply.status for reply in replies} == {200}

    store.challenge(f"ball/{OTHER}", PATIENT)
    asyncio.run(asked(Traffic(desk, seed=0)))
    assert (store.rollout("ball").challenger is not None) == stays
    store.withdraw(f"ball/{OTHER}")


def test_a_shadow_that_ends_replicas_is_taken_back_each_time(store, monkeypatch):
    class Fatal:
        """Stands for a desk whose shadow's replicas end."""

        registry, limits = store, Limits(refresh_s=0)
        warm = staticmethod(asyncio.sleep)

        async def ask(self, version, task, image, media_type, ticket=None):
            return problem(503, DIED, "") if version.version == OTHER else Reply(200, JSON, b"{}")

    async def run():
        desk: Any = Fatal()
        traffic, champion = Traffic(desk, seed=0), store.resolve("ball/1")

        async def asked():
            for _ in range(40):
                reply = await traffic.ask("ball", champion, Asked("segmentation", b"", JSON), "")
                assert reply.status == 200
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            return await asyncio.to_thread(store.rollout, "ball")

        assert (await asked()).shadow is not None, "copies that end together are of one replica"
        monkeypatch.setattr("medray.serving.traffic.ONE_DEATH_S", 0.0)
        for _ in range(2):  # one that is put back has another chance
            await asyncio.to_thread(store.promote, f"ball/{OTHER}", "shadow")
            assert (await asked()).shadow is None

    store.promote(f"ball/{OTHER}", "shadow")
    asyncio.run(run())
