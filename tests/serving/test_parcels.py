"""Small images that go together."""

import asyncio
import os

import numpy as np
import pytest

from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.serving.parcels import MOST, MOST_BYTES, SMALL_BYTES, Parcels, Wanted, is_small
from medray.serving.results import Reply


def wanted(number, size=10):
    return Wanted("diagnosis", bytes([number]) * size, "application/json")


class Pool:
    """Answers with each image's first byte, when it is let."""

    def __init__(self):
        self.calls = []
        self.go = asyncio.Event()

    async def send(self, version, images):
        self.calls.append((version, [one.image[0] for one in images]))
        await self.go.wait()
        if any(one.image[0] == 66 for one in images):
            raise ConnectionError("it died")
        return [Reply(200, "application/json", one.image[:1]) for one in images]


async def asked(parcels, numbers, version="a/1", size=10):
    asking = [asyncio.create_task(parcels.ask(version, wanted(number, size))) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return asking


def test_what_is_small():
    def packed(side):
        return write_nifti(Volume(np.zeros((1, side, side, side), np.float32), np.eye(4)))

    assert is_small(packed(32))
    assert not is_small(packed(128)), "a few kilobytes that inflate to megabytes"
    assert not is_small(os.urandom(SMALL_BYTES + 1))
    assert is_small(b"hello"), "what it is is said by who reads it"


def test_one_goes_at_once_and_who_comes_meanwhile_goes_together():
    async def run():
        pool = Pool()
        parcels = Parcels(pool.send, 2)
        first = await asked(parcels, [1])
        second = await asked(parcels, [2])
        rest = await asked(parcels, [3, 4, 5])
        assert pool.calls == [("a/1", [1]), ("a/1", [2])]
        pool.go.set()
        replies = await asyncio.gather(*first, *second, *rest)
        assert [reply.body[0] for reply in replies] == [1, 2, 3, 4, 5]
        assert pool.calls[2:] == [("a/1", [3, 4, 5])]

    asyncio.run(run())


def test_each_model_has_its_own_line():
    async def run():
        pool = Pool()
        parcels = Parcels(pool.send, 1)
        asking = [*await asked(parcels, [1], "a/1"), *await asked(parcels, [2], "b/1"), *await asked(parcels, [3], "a/1")]
        assert pool.calls == [("a/1", [1]), ("b/1", [2])]
        pool.go.set()
        await asyncio.gather(*asking)

    asyncio.run(run())


def test_a_call_has_its_limits():
    async def run():
        pool = Pool()
        parcels = Parcels(pool.send, 1)
        asking = await asked(parcels, [0])
        asking += await asked(parcels, [1] * (MOST + 3))
        asking += await asked(parcels, [2, 2, 2], size=MOST_BYTES // 2)
        pool.go.set()
        await asyncio.gather(*asking)
        assert [len(images) for _, images in pool.calls] == [1, MOST, 3 + 1, 2]

    asyncio.run(run())


def test_what_a_call_raises_is_raised_for_all_in_it_and_the_line_goes_on():
    async def run():
        pool = Pool()
        parcels = Parcels(pool.send, 1)
        asking = [*await asked(parcels, [1]), *await asked(parcels, [66, 2])]
        pool.go.set()
        first, *others = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(first, Reply)
        assert all(isinstance(other, ConnectionError) for other in others)
        [again] = await asked(parcels, [3])
        assert (await again).body == b"\x03"

    asyncio.run(run())


def test_who_goes_away_is_not_carried():
    async def run():
        pool = Pool()
        parcels = Parcels(pool.send, 1)
        [first] = await asked(parcels, [1])
        gone, stays = await asked(parcels, [2, 3])
        gone.cancel()
        await asyncio.sleep(0)
        pool.go.set()
        await asyncio.gather(first, stays)
        assert pool.calls[1:] == [("a/1", [3])]
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())
