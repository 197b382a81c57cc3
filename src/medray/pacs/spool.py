"""A folder of DICOM objects that were acknowledged: each one whole, on the disk, and there once.

::

    SPOOL/incoming/             half-written; swept at the start, for nobody was told that it had arrived
    SPOOL/arriving/STUDY/SERIES/OBJECT-CONTENT.dcm
    SPOOL/settled/STUDY/...     studies that nothing was added to for a while: what an ingestion reads

Objects hold their identifiers, so that the folder is for its owner alone; its names are hashes of UIDs. An object that comes
again as the same bytes is stored once; one with the same UID and other bytes is kept beside it, and the ingestion chooses.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medray.errors import ImageError, StorageError
from medray.formats.dicom_file import without_meta
from medray.formats.dicom_header import DicomHeader, read_dicom_file_header

__all__ = ["Received", "Spool"]

NAME_LETTERS = 32
MIN_FREE_BYTES = 2 << 30
TAKEN, LOCK, NAME = ".taken", ".lock", ".name"


@dataclass(frozen=True, slots=True)
class Received:
    """An object in the spool.

    Attributes:
        header: Its identifiers.
        new: False when the same bytes were there already.
    """

    header: DicomHeader
    new: bool


class Spool:
    """A spool folder. Safe for many threads; for one receiving process at a time.

    Args:
        folder: Made with mode 0700 if it isn't there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.incoming, self.arriving, self.settled = (folder / name for name in ("incoming", "arriving", "settled"))
        for place in (folder, self.incoming, self.arriving, self.settled):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out.

        Raises:
            StorageError: If another one holds it.
        """
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StorageError("another medray uses the same spool: wait for it, or give this one --spool") from None
            yield

    def settled_files(self, series: str) -> list[Path]:
        """Return a series' settled files, whatever study its objects name."""
        return sorted(self.settled.glob(f"*/{_name(series)}/*.dcm"))

    def discard(self, series: str) -> None:
        """Delete what has arrived of a series."""
        for folder in self.arriving.glob(f"*/{_name(series)}"):
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, *, arriving: bool = False) -> None:
        """Delete what was half-written when a receiver died.

        Args:
            arriving: Delete what has not settled, too: nobody was told that it had arrived, and it can be fetched again.
        """
        for path in self.incoming.iterdir():
            path.unlink(missing_ok=True)
        if arriving:
            shutil.rmtree(self.arriving)
            self.arriving.mkdir(mode=0o700)

    def new_file(self) -> Path:
        """Return a fresh path for an object on its way in."""
        return self.incoming / secrets.token_hex(16)

    def has_room(self) -> bool:
        """Tell whether there is disk left for another object."""
        return shutil.disk_usage(self.folder).free > MIN_FREE_BYTES

    def accept(self, path: Path, announce: Callable[[DicomHeader], None] = lambda header: None) -> Received:
        """Take a written file in: when this returns, the object outlives a crash of the machine.

        Args:
            path: A whole DICOM file in `incoming`; it is moved or, when refused, left.
            announce: Called before it is moved.

        Raises:
            ImageError: If it isn't a DICOM object with its three UIDs.
            StorageError: If it can't be stored.
        """
        try:
            data = path.read_bytes()
            header = read_dicom_file_header(data)
            if not header.instance or not header.study:
                raise ImageError("no-identity", "the object has no SOPInstanceUID or no StudyInstanceUID")
            name = f"{_name(header.instance)}-{hashlib.sha256(without_meta(data)).hexdigest()[:NAME_LETTERS]}.dcm"
            relative = Path(_name(header.study), _name(header.series), name)
            announce(header)
            with self._lock:
                if any((place / relative).exists() for place in (self.arriving, self.settled)):
                    path.unlink()
                    return Received(header, new=False)
                _move_durably(path, self.arriving / relative)
        except OSError as error:
            raise StorageError(f"the spool can't store an object: {os.strerror(error.errno or 5).lower()}") from None
        return Received(header, new=True)

    def settle(self, *, quiet_s: float) -> int:
        """Hand over the studies that nothing was added to for ``quiet_s`` seconds, and return how many objects that were."""
        moved = 0
        for study in sorted(self.arriving.iterdir()):
            with self._lock:  # an object that comes in meanwhile waits, and then finds its folder or makes it anew
                files = [file for file in study.rglob("*.dcm") if file.is_file()]
                newest = max((file.stat().st_ctime for file in files), default=0.0)
                if quiet_s and time.time() - newest < quiet_s:
                    continue
                for file in files:
                    target = self.settled / file.relative_to(self.arriving)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.rename(target)
                    moved += 1
                if files:
                    (self.settled / study.name / TAKEN).unlink(missing_ok=True)
                for folder in (*(path for path in study.iterdir() if path.is_dir()), study):
                    with contextlib.suppress(OSError):  # never deletes what isn't empty
                        folder.rmdir()
        return moved

    def mark_taken(self, studies: Iterable[Path]) -> None:
        """Note that studies were taken in: only they may ever expire, until something else of theirs settles."""
        for study in studies:
            (study / TAKEN).touch()

    @property
    def name(self) -> str:
        """What tells this spool from any other, wherever it is mounted."""
        file = self.folder / NAME
        with self._lock:
            if not file.exists():
                file.write_text(secrets.token_hex(16))
            return file.read_text()

    def untaken(self) -> list[Path]:
        """Return the settled studies that weren't marked as taken since something of theirs settled."""
        return sorted(study for study in self.settled.iterdir() if not (study / TAKEN).exists())

    def expire(self, *, older_s: float, but: Collection[str] = ()) -> int:
        """Delete studies that were taken in and whose newest object is older, and return how many.

        Args:
            older_s: Seconds.
            but: Names of studies' folders that stay.
        """
        gone = 0
        for study in sorted(self.settled.iterdir()):
            if study.name in but:
                continue
            with self._lock:
                newest = max((file.stat().st_mtime for file in study.rglob("*.dcm")), default=0.0)
                if (study / TAKEN).exists() and time.time() - newest > older_s:
                    shutil.rmtree(study, ignore_errors=True)
                    gone += 1
        return gone


def _name(uid: str) -> str:
    """Return a hash of a peer's text: a UID never becomes a path."""
    return hashlib.sha256(uid.encode()).hexdigest()[:NAME_LETTERS]


def _move_durably(path: Path, target: Path) -> None:
    """Flush a file, rename it into place, and flush the folders that name it."""
    made = [parent for parent in (target.parent, target.parent.parent) if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _flush(path)
    path.rename(target)
    for folder in (target.parent, *(parent.parent for parent in made)):
        _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
