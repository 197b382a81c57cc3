import asyncio

import pytest

from medray.errors import NotFoundError
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion
from medray.serving.references import References


class Aliases(Registry):
    """A registry of one alias."""

    def __init__(self) -> None:
        self.now = 1
        self.asked = 0
        self.error: Exception | None = None

    def resolve(self, reference: str) -> ModelVersion:
        self.asked += 1
        if self.error:
            raise self.error
        return ModelVersion("brain", self.now, (), "file:///x")


def test_a_moved_alias_is_followed_once_the_new_version_is_loaded():
    registry, warmed = Aliases(), []

    async def go():
        gate = asyncio.Event()

        async def warm(version):
            warmed.append(version.version)
            await gate.wait()

        references = References(registry, ["brain"], 0.02, warm)
        assert (await references.resolve("brain@champion")).version == 1
        registry.now = 2
        for _ in range(20):
            assert (await references.resolve("brain@champion")).version == 1, "nobody waits for the load"
            await asyncio.sleep(0.01)
        gate.set()
        await asyncio.sleep(0.05)
        assert (await references.resolve("brain@champion")).version == 2

    asyncio.run(go())
    assert warmed == [2]


def test_of_a_registry_or_a_model_that_fails_the_last_word_stands():
    registry = Aliases()

    async def go():
        async def warm(version):
            raise OSError("half a file")

        references = References(registry, [], 0.0, warm)
        await references.resolve("brain")
        for registry.error in (ConnectionError("down"), None):
            registry.now = 2
            for _ in range(5):
                assert (await references.resolve("brain")).version == 1
                await asyncio.sleep(0.01)
        registry.error = NotFoundError("gone")
        for _ in range(3):
            await asyncio.sleep(0.02)
            try:
                await references.resolve("brain")
            except NotFoundError:
                return
        raise AssertionError("what the registry says is gone is gone")

    asyncio.run(go())


def test_the_registry_is_not_asked_for_each_request():
    registry = Aliases()

    async def go():
        references = References(registry, [], 60.0, lambda version: asyncio.sleep(0))
        for _ in range(100):
            await references.resolve("brain")

    asyncio.run(go())
    assert registry.asked == 1


@pytest.mark.parametrize("reference", ["lung", "brain@", "../etc", "brain/x", ""])
def test_other_names_are_not_served(reference):
    references = References(Aliases(), ["brain"], 1.0, lambda version: asyncio.sleep(0))
    with pytest.raises(NotFoundError, match="is served here; there is brain"):
        asyncio.run(references.resolve(reference))
