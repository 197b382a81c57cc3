"""What became of each piece of a long run: a small file each, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from medray.engine import stream
from medray.errors import ImageError, MedrayError, NotFoundError
from medray.storage.location import Location, file_name

__all__ = ["OK", "Piece", "Record", "Records", "failures", "problem_of"]

OK = "ok"
READERS = 16
"""Records of earlier runs that are read at a time: a bucket answers each after some ten milliseconds."""
Record = dict[str, Any]


class Piece(Protocol):
    """A piece of work."""

    @property
    def name(self) -> str:
        """Of the piece, and of its record's file."""
        ...

    @property
    def stamp(self) -> str:
        """Changes when the piece does."""
        ...


P = TypeVar("P", bound=Piece)


@dataclass(frozen=True, slots=True)
class Records:
    """Records in a folder.

    Attributes:
        folder: Where they are.
        model: What each of them says made it.
    """

    folder: Location
    model: str

    def note(self, name: str, stamp: str, outcome: str, detail: str, **facts: Any) -> Record:
        """Write and return what became of one piece.

        Args:
            name: Of the piece, and of the file.
            stamp: Changes when the piece does: then what stands here no longer counts.
            outcome: ``ok``, or the reason in a word.
            detail: What was wrong, for people.
            **facts: JSON-ready.
        """
        record = {"name": name, "model": self.model, "outcome": outcome, "detail": detail, "stamp": stamp, **facts}
        self.folder.join(_file(name)).write(json.dumps(record).encode())
        return record

    def completed(
        self, pieces: Sequence[P], work: Callable[[P], Record], crashed: str, tell: Callable[[int, int], None]
    ) -> tuple[list[Record], int]:
        """Work with Ray Data on those pieces of which earlier runs have no record, and return a record for each.

        Args:
            pieces: Picklable.
            work: Picklable; works on one, notes what became of it, and returns the note.
            crashed: What to note of a piece over which worker after worker died.
            tell: Called with how many are done, and of how many.

        Returns:
            The records in the order of the pieces, and how many are of earlier runs.
        """
        known = self._known({piece.name: piece.stamp for piece in pieces})
        left, resumed = [piece for piece in pieces if piece.name not in known], len(known)
        tell(resumed, len(pieces))
        for record in stream(left, work, on_crash=lambda piece: self.note(piece.name, piece.stamp, "crashed", crashed)):
            known[record["name"]] = record
            tell(len(known), len(pieces))
        return [known[piece.name] for piece in pieces], resumed

    def _known(self, stamps: Mapping[str, str]) -> dict[str, Record]:
        """Return the records of earlier runs by name, of pieces that are the same since."""
        there = {entry.name for entry in self.folder.entries()} if self.folder.exists() else set()
        seen = [name for name in stamps if _file(name) in there]
        with ThreadPoolExecutor(READERS) as readers:
            found = dict(zip(seen, readers.map(self._read, seen), strict=True))
        return {name: record for name, record in found.items() if record.get("stamp") == stamps[name]}

    def _read(self, name: str) -> Record:
        """Return what stands of a piece; nothing where a run was killed over it."""
        try:
            record: Record = json.loads(self.folder.join(_file(name)).read())
        except (NotFoundError, ValueError):
            return {}
        return record


def _file(name: str) -> str:
    return f"{file_name(name)}.json"


def problem_of(error: Exception, what: str) -> tuple[str, str]:
    """Return an error as a record's outcome and detail.

    Args:
        error: That ended work on a piece.
        what: The piece, for people.
    """
    if isinstance(error, ImageError):
        return error.reason, error.detail
    if isinstance(error, MedrayError):
        return "unusable", str(error)
    return "unreadable", f"{what} can't be read ({type(error).__name__})"


def failures(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count records by what went wrong."""
    failed: dict[str, int] = defaultdict(int)
    for record in records:
        if record["outcome"] != OK:
            failed[record["outcome"]] += 1
    return dict(failed)
