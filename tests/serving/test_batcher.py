import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from medray.inference.prediction import Unwanted
from medray.preprocessing.blocks import Blocks
from medray.serving.batcher import Batcher


class Network:
    """Doubles images; notes how many images came at a time; holds until it is let go."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.began = threading.Event()
        self.gate.set()

    def activate(self, images: Any, *, unwanted: Any) -> Any:
        self.began.set()
        self.batches.append(len(images))
        while not self.gate.wait(0.01):
            if unwanted():
                raise Unwanted
        if any(image.min() < 0 for image in images):
            raise ValueError("negative")
        yield from ((number, Blocks.of(image * 2)) for number, image in enumerate(images))

    def probe(self) -> None:
        """Never asked for here."""


async def answered(batcher, network, image):
    async with batcher.run(network, image) as turn:
        return await asyncio.to_thread(turn.blocks.whole)


def image(value, size=8):
    return np.full((1, size, 1, 1), value, np.float32)


def test_who_waits_for_one_model_goes_together():
    one, other = Network(), Network()
    one.gate.clear()

    async def go():
        batcher = Batcher(most_voxels=32)
        wishes = [(one, 1), (one, 2), (other, 3), (one, 4), (one, 5), (one, 6), (one, 7)]
        tasks = []
        for network, value in wishes:
            tasks.append(asyncio.create_task(answered(batcher, network, image(value))))
            await asyncio.sleep(0.02)
        assert batcher.busy_seconds > 0
        one.gate.set()
        answers = await asyncio.gather(*tasks)
        assert [answer[0, 0, 0, 0] for answer in answers] == [2 * value for _, value in wishes]
        assert batcher.busy_seconds == 0

    asyncio.run(go())
    assert one.batches == [1, 4, 1], "four of eight voxels are 32"
    assert other.batches == [1]


def test_images_of_other_sizes_go_alone():
    network = Network()
    network.gate.clear()

    async def go():
        batcher = Batcher(most_voxels=99)
        tasks = []
        for size in (8, 8, 9, 8):
            tasks.append(asyncio.create_task(answered(batcher, network, image(1, size))))
            await asyncio.sleep(0.02)
        network.gate.set()
        assert [len(answer[0]) for answer in await asyncio.gather(*tasks)] == [8, 8, 9, 8]

    asyncio.run(go())
    assert network.batches == [1, 2, 1]


def test_who_goes_away_ends_the_run_and_leaves_the_line():
    network = Network()
    network.gate.clear()

    async def go():
        batcher = Batcher(most_voxels=1)
        running, waiting, last = (asyncio.create_task(answered(batcher, network, image(value))) for value in (1, 2, 3))
        await asyncio.to_thread(network.began.wait, 10)
        running.cancel()
        waiting.cancel()
        await asyncio.sleep(0.1)
        network.gate.set()
        assert (await last)[0, 0, 0, 0] == 6

    asyncio.run(go())
    assert network.batches == [1, 1], "the one in line was never run"


def test_an_error_is_for_who_is_to_blame():
    network = Network()

    async def go():
        batcher = Batcher(most_voxels=99)
        first, bad, good = (asyncio.create_task(answered(batcher, network, image(value))) for value in (1, -1, 2))
        with pytest.raises(ValueError, match="negative"):
            await bad
        assert (await first)[0, 0, 0, 0] == 2
        assert (await good)[0, 0, 0, 0] == 4

    asyncio.run(go())
    assert network.batches == [3, 1, 1, 1]


def test_blocks_are_decoded_while_the_network_goes_on_and_not_far_behind():
    made, taken = [], []

    class InBlocks(Network):
        def activate(self, images: Any, *, unwanted: Any) -> Any:
            def parts():
                for number in range(9):
                    made.append(number)
                    yield (number, 0, 0), np.ones((1, 1, 1, 1), np.float32)

            yield 0, Blocks((9, 1, 1), parts())

    def decode(blocks):
        for (number, _, _), _ in blocks.parts:
            taken.append(number)
            assert made[-1] <= number + 4

    async def go():
        async with Batcher(99).run(InBlocks(), image(1)) as turn:
            blocks = turn.blocks
            await asyncio.to_thread(decode, blocks)

    asyncio.run(go())
    assert taken == list(range(9))


def test_an_error_half_way_reaches_who_decodes():
    class Breaks(Network):
        def activate(self, images: Any, *, unwanted: Any) -> Any:
            def parts():
                yield (0, 0, 0), np.ones((1, 1, 1, 1), np.float32)
                raise OSError("the device is gone")

            yield 0, Blocks((2, 1, 1), parts())

    async def go():
        return await answered(Batcher(99), Breaks(), image(1))

    with pytest.raises(OSError, match="the device is gone"):
        asyncio.run(go())
