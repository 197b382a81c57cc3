"""Several callers' small images at once: each gets what it would get alone."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import medray
from medray.errors import ImageError
from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.inference.bundled import load_predictor
from medray.serving import together
from medray.serving.batcher import Batcher
from medray.serving.parcels import Wanted
from medray.serving.results import JSON, NIFTI
from medray.serving.room import Room
from medray.serving.shelf import Shelf
from medray.serving.together import Together
from medray.serving.witness import Told
from tests.phantoms import grid, orientations, phantom


@pytest.fixture
def registry(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    return medray.Registry()


TOLD: list[Told] = []


def told_to(told):
    async def tell(one):
        told.append(one)

    return tell


def scan(seed):
    return phantom(np.random.default_rng(seed), grid(list(orientations())[seed], (2.0, 2.0, 2.5), (5, 4, 3)))[0]


def answered(registry, wanted, version="ball/1", room=1 << 30, maps=1 << 30):
    """Answer in a fresh replica; return the replies, and what is free afterwards of what was there."""

    async def run():
        shelf = Shelf(registry.fetch, load_predictor, 1 << 30)
        rooms = Room(room, 4), Room(maps, 4)
        several = Together(shelf, Batcher(1_000_000), ThreadPoolExecutor(2), *rooms, told_to(TOLD))
        try:
            return await several.answer(version, wanted)
        finally:
            assert [one.free for one in rooms] == [room, maps]

    return asyncio.run(run())


def test_each_gets_its_own_answer_in_turn(registry):
    scans = [scan(seed) for seed in (3, 4, 5, 3)]
    kinds = (NIFTI, NIFTI, JSON, JSON)
    replies = answered(
        registry, [Wanted("segmentation", write_nifti(one), kind) for one, kind in zip(scans, kinds, strict=True)]
    )
    predictor = load_predictor(registry.fetch(registry.resolve("ball/1")))
    alone = [predictor.predict(one) for one in scans]
    for reply, prediction in zip(replies[:2], alone[:2], strict=True):
        assert reply.body == write_nifti(prediction.mask)
    for reply, prediction in zip(replies[2:], alone[2:], strict=True):
        said = json.loads(reply.body)
        assert said["volumes_ml"] == prediction.plain()["volumes_ml"]
        assert list(said["latencies"]) == ["wait", "load", "decode", "preprocess", "network", "queue", "postprocess"]
        assert min(said["latencies"].values()) >= 0


def test_what_is_wrong_with_one_is_no_other_s(registry):
    good = write_nifti(scan(3))
    replies = answered(
        registry,
        [
            Wanted("segmentation", good, JSON),
            Wanted("segmentation", b"hello", JSON),
            Wanted("segmentation", good[:900], JSON),
            Wanted("diagnosis", good, JSON),
            Wanted("segmentation", write_nifti(Volume(np.full((1, 9, 9, 9), np.nan, np.float32), np.eye(4))), JSON),
            Wanted("segmentation", good, "application/dicom"),
            Wanted("segmentation", good, JSON),
        ],
    )
    assert [reply.status for reply in replies] == [200, 415, 400, 422, 400, 422, 200]
    assert json.loads(replies[0].body)["volumes_ml"] == json.loads(replies[-1].body)["volumes_ml"]


def test_nothing_but_broken_ones(registry):
    assert [reply.status for reply in answered(registry, [Wanted("segmentation", b"hello", JSON)] * 3)] == [415] * 3


@pytest.mark.parametrize("rooms", [{"room": 1 << 16}, {"maps": 1 << 12}], ids=["in work", "as maps"])
def test_too_many_for_the_room_together(registry, rooms):
    with pytest.raises(ImageError, match="needs"):
        answered(registry, [Wanted("segmentation", write_nifti(scan(3)), JSON)] * 8, **rooms)


def test_an_image_of_which_much_is_said_goes_alone(registry, monkeypatch):
    monkeypatch.setattr(together, "SMALL_MAP", 1000)
    wanted = [Wanted("segmentation", write_nifti(scan(3)), JSON), Wanted("segmentation", b"hello", JSON)]
    alone, refused = answered(registry, wanted)
    assert alone is None
    assert refused is not None
    assert refused.status == 415


def test_a_network_that_fails_on_one(registry, monkeypatch):
    activate = medray.Predictor.activate
    bad = medray.Predictor.load(registry.fetch(registry.resolve("ball/1"))).prepare(scan(4))

    def broken(self, images, *, unwanted):
        if any(np.array_equal(image, bad) for image in images):
            raise ValueError("Doe, Jane")
        return activate(self, images, unwanted=unwanted)

    monkeypatch.setattr(medray.Predictor, "activate", broken)
    replies = answered(registry, [Wanted("segmentation", write_nifti(scan(seed)), JSON) for seed in (3, 4, 3)])
    assert [reply.status for reply in replies] == [200, 500, 200]
    assert b"Jane" not in replies[1].body


def test_who_goes_away_leaves_the_room_to_others(registry):
    async def run():
        shelf = Shelf(registry.fetch, load_predictor, 1 << 30)
        rooms = Room(1 << 30, 4), Room(1 << 30, 4)
        batcher = Batcher(1_000_000)
        several = Together(shelf, batcher, ThreadPoolExecutor(2), *rooms, told_to(TOLD))
        await several.answer("ball/1", [Wanted("segmentation", write_nifti(scan(3)), JSON)])  # loaded now
        asking = asyncio.create_task(several.answer("ball/1", [Wanted("segmentation", write_nifti(scan(3)), JSON)] * 20))
        while rooms[1].free == 1 << 30:
            await asyncio.sleep(0.001)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert [room.free for room in rooms] == [1 << 30] * 2
        while batcher.busy_seconds:
            await asyncio.sleep(0.01)
        replies = await several.answer("ball/1", [Wanted("segmentation", write_nifti(scan(3)), JSON)])
        assert replies[0] is not None
        assert replies[0].status == 200

    asyncio.run(run())
