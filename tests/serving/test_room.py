import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.errors import ImageError, ResourceError
from medray.serving.room import Room


def test_who_never_fits_is_told_and_who_is_one_too_many_too():
    async def go():
        room = Room(100, most_waiting=1)
        with pytest.raises(ImageError, match="too-large"):
            async with room.hold(101):
                pass
        async with room.hold(80):
            waiting = asyncio.create_task(held(room, 30))
            await asyncio.sleep(0)
            with pytest.raises(ResourceError, match="try again"):
                await held(room, 1)
        await waiting
        assert room.free == 100

    asyncio.run(go())


async def held(room, size):
    async with room.hold(size):
        await asyncio.sleep(0)


def test_a_large_one_in_line_is_not_overtaken():
    async def go():
        room, order = Room(100, most_waiting=9), []

        async def enter(name, size):
            async with room.hold(size):
                order.append(name)
                await asyncio.sleep(0)

        async with room.hold(60):
            tasks = [asyncio.create_task(enter(name, size)) for name, size in (("large", 90), ("small", 10))]
            await asyncio.sleep(0.01)
            assert order == []
        await asyncio.gather(*tasks)
        assert order == ["large", "small"]

    asyncio.run(go())


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(0, 10**6))
def test_the_budget_holds_and_all_comes_back_whoever_goes_away(sizes, seed):
    rng = random.Random(seed)

    async def go():
        room, now = Room(100, most_waiting=99), 0

        async def work(size):
            nonlocal now
            async with room.hold(size):
                now += size
                assert now <= 100
                try:
                    await asyncio.sleep(0)
                finally:
                    now -= size

        tasks = [asyncio.create_task(work(size)) for size in sizes]
        for _ in range(3):
            await asyncio.sleep(0)
            rng.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert room.free == 100

    asyncio.run(go())
