"""Images that are kept for a while."""

import asyncio

import pytest

from medray.errors import NotFoundError
from medray.serving import sessions
from medray.serving.auth import Principal, Role
from medray.serving.sessions import Sessions

KIM = Principal("kim", Role.VIEWER)


def test_an_image_is_its_sender_s_for_a_while(tmp_path):
    kept = Sessions(str(tmp_path))
    number = kept.open("kim", b"image").id
    assert kept.image(kept.get(number, KIM)) == b"image"
    with pytest.raises(NotFoundError):
        kept.get(number, Principal("lee", Role.ADMIN))
    kept.close(kept.get(number, KIM))
    with pytest.raises(NotFoundError):
        kept.get(number, KIM)


def test_what_is_over_is_deleted_without_anybody_asking(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "PURGE_S", 0.05)
    kept = Sessions(str(tmp_path))
    kept.open("kim", b"old", expiry=1)
    stays = kept.open("kim", b"new", expiry=60).id

    async def run():
        working = asyncio.create_task(kept.run())
        async with asyncio.timeout(10):
            while len(list(tmp_path.rglob("image"))) > 1:
                await asyncio.sleep(0.05)
        working.cancel()

    asyncio.run(run())
    assert kept.image(kept.get(stays, KIM)) == b"new"
