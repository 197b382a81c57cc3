"""Images that a viewer sends once and asks about several times: kept for a while, its sender's alone."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from dataclasses import asdict, dataclass, replace

from medray.errors import MedrayError, NotFoundError
from medray.serving.auth import Principal
from medray.serving.jobs import own_folder
from medray.storage.location import Location

__all__ = ["Session", "Sessions"]

DEFAULT_S, MOST_S = 3600, 86_400
PURGE_S = 60.0
META, IMAGE = "session.json", "image"

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Session:
    """An image that is kept.

    Attributes:
        id: Nobody can guess it.
        owner: Whose it is.
        size: Of the image in bytes.
        created: Seconds since 1970.
        used: When it was last asked for.
        expiry: Seconds without use after which it is deleted.
    """

    id: str
    owner: str
    size: int
    created: float
    used: float
    expiry: int


class Sessions:
    """Sessions in a folder, so that a gateway that starts again finds them.

    Args:
        folder: URI; below ``MEDRAY_HOME`` where it is empty.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder: Location = own_folder(folder, "sessions")

    async def run(self) -> None:
        """Delete those whose time is over, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.purge)
            except (MedrayError, OSError) as error:  # the store is away: it is asked again in a moment
                logger.warning("old sessions stay: %s", type(error).__name__)
            await asyncio.sleep(PURGE_S)

    def open(self, owner: str, image: bytes, expiry: int = 0) -> Session:
        """Keep an image."""
        now = time.time()
        made = Session(uuid.uuid4().hex, owner, len(image), now, now, min(expiry if expiry > 0 else DEFAULT_S, MOST_S))
        self._folder.join(made.id, IMAGE).write(image)
        return self._note(made)

    def get(self, number: str, principal: Principal, *, touch: bool = True) -> Session:
        """Return somebody's session.

        Args:
            number: Its id.
            principal: Who asks.
            touch: Whether its time begins anew.

        Raises:
            NotFoundError: If there is none of this id, or it is somebody else's.
        """
        place = self._folder.join(number, META)
        found = Session(**json.loads(place.read())) if number.isalnum() and place.exists() else None
        if found is None or found.owner != principal.name or found.used + found.expiry < time.time():
            raise NotFoundError("there is no such session, or its time is over: send the image again")
        return self._note(replace(found, used=time.time())) if touch else found

    def image(self, session: Session) -> bytes:
        """Return a session's image."""
        return self._folder.join(session.id, IMAGE).read()

    def close(self, session: Session) -> None:
        """Delete a session."""
        for name in (META, IMAGE):
            place = self._folder.join(session.id, name)
            if place.exists():
                place.remove()

    def _note(self, session: Session) -> Session:
        self._folder.join(session.id, META).write(json.dumps(asdict(session)).encode())
        return session

    def purge(self) -> None:
        """Delete those whose time is over."""
        for entry in self._folder.entries() if self._folder.exists() else ():
            if entry.name.endswith(META):
                found = Session(**json.loads(self._folder.join(entry.name).read()))
                if found.used + found.expiry < time.time():
                    self.close(found)
