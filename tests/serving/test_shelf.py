import asyncio
import threading
import time

import pytest

from medray.errors import NotFoundError, ResourceError
from medray.serving.shelf import Shelf


class Models:
    """Folders of 100 bytes, loaded by hand."""

    def __init__(self, place, names, size=100):
        self.loads = []
        self.gates = {}
        self.place = place
        for name in names:
            (place / name).mkdir()
            (place / name / "weights").write_bytes(bytes(size))

    def fetch(self, key):
        if not (self.place / key).is_dir():
            raise NotFoundError(f"no model {key}")
        return self.place / key

    def load(self, folder):
        self.loads.append(folder.name)
        if gate := self.gates.get(folder.name):
            assert gate.wait(10)
        return f"loaded {folder.name}"

    def shelf(self, budget):
        return Shelf(self.fetch, self.load, budget)


@pytest.fixture
def models(tmp_path):
    return Models(tmp_path, "abcd")


async def used(shelf, key):
    async with shelf.lend(key) as model:
        return model


def test_the_least_recently_used_makes_way(models):
    async def go():
        shelf = models.shelf(250)
        for key in "abac":
            assert await used(shelf, key) == f"loaded {key}"
        assert shelf.loaded == ("c", "a")
        assert await used(shelf, "b") == "loaded b"
        assert shelf.loaded == ("b", "c")

    asyncio.run(go())
    assert models.loads == ["a", "b", "c", "b"]


def test_many_who_ask_at_once_load_once(models):
    async def go():
        shelf = models.shelf(250)
        return await asyncio.gather(*(used(shelf, "a") for _ in range(20)))

    assert asyncio.run(go()) == ["loaded a"] * 20
    assert models.loads == ["a"]


def test_a_cold_model_keeps_nobody_from_a_warm_one(models):
    models.gates["b"] = threading.Event()

    async def go():
        shelf = models.shelf(250)
        await used(shelf, "a")
        cold = asyncio.create_task(used(shelf, "b"))
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        for _ in range(100):
            await used(shelf, "a")
        assert time.perf_counter() - started < 5
        assert not cold.done()
        models.gates["b"].set()
        assert await cold == "loaded b"

    asyncio.run(go())


def test_what_is_lent_stays_and_who_comes_waits(models):
    async def go():
        shelf = models.shelf(150)
        async with shelf.lend("a"):
            waiting = asyncio.create_task(used(shelf, "b"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            assert shelf.loaded == ("a",)
        assert await waiting == "loaded b"
        assert shelf.loaded == ("b",)

    asyncio.run(go())


def test_who_goes_away_ends_no_load(models):
    models.gates["a"] = threading.Event()

    async def go():
        shelf = models.shelf(250)
        first, second = (asyncio.create_task(used(shelf, "a")) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        models.gates["a"].set()
        assert await second == "loaded a"
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(go())
    assert models.loads == ["a"]


def test_too_large_and_missing_models_are_errors_and_leave_nothing(models):
    async def go():
        shelf = models.shelf(50)
        with pytest.raises(ResourceError, match="a has 1 MB and all models together may have 1: raise models_mb"):
            await used(shelf, "a")
        with pytest.raises(NotFoundError):
            await used(shelf, "z")
        assert shelf.loaded == ()

    asyncio.run(go())


def test_a_load_that_failed_is_tried_again(models):
    def load(folder):
        models.loads.append(folder.name)
        if len(models.loads) == 1:
            raise OSError("the disk")
        return "loaded"

    async def go():
        shelf = Shelf(models.fetch, load, 250)
        with pytest.raises(OSError, match="the disk"):
            await used(shelf, "a")
        assert await used(shelf, "a") == "loaded"

    asyncio.run(go())
