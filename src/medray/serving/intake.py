"""Images' files on their way into a replica: fetched where they are, and let in once there is room for work on them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from medray.formats.image import declared_bytes
from medray.serving.room import Room
from medray.serving.sources import Reference, Sources
from medray.serving.stages import Stages
from medray.serving.together import COPIES

__all__ = ["Intake"]


class Intake:
    """Lets images in.

    Args:
        sources: Fetch what is referred to.
        room: Memory for images in work.
        most: Bytes of it.
    """

    def __init__(self, sources: Sources, room: Room, most: int) -> None:
        self._sources = sources
        self._room = room
        self._most = most

    async def files(self, image: bytes | Reference, stages: Stages, stack: AsyncExitStack) -> list[bytes]:
        """Return an image's files, once there is room for work on it until the stack ends."""
        files = await self._fetched(image)
        if not isinstance(image, bytes):
            stages.end("fetch")
        await stack.enter_async_context(self._room.hold(await asyncio.to_thread(_needed, files)))
        stages.end("wait")
        return files

    async def scans(self, scans: Sequence[bytes | Reference], stages: Stages, stack: AsyncExitStack) -> list[list[bytes]]:
        """Return several images' files, once there is room for all: who holds some and waits for more might wait forever."""
        found = [await self._fetched(scan, len(scans)) for scan in scans]
        stages.end("fetch")
        await stack.enter_async_context(self._room.hold(sum([await asyncio.to_thread(_needed, files) for files in found])))
        stages.end("wait")
        return found

    async def _fetched(self, image: bytes | Reference, parts: int = 1) -> list[bytes]:
        """Return an image's files, which may take a part of the memory for work."""
        if isinstance(image, bytes):
            return [image]
        return await asyncio.to_thread(self._sources.fetch, image, self._most // COPIES // parts)


def _needed(files: Sequence[bytes]) -> int:
    """Return how many bytes work on an image takes."""
    return COPIES * sum(map(declared_bytes, files))
