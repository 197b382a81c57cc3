"""Records on their way to the store: appended to a local file at once, moved to Parquet every now and then.

Each process that serves writes a journal of its own, a JSON line a fact, and holds a lock on it. What a killed process left is
taken up by whoever moves next on that node: the lock is free then. A prediction is told of twice: when it is there, before its
answer goes out, and again with what takes a moment longer. A killed process loses the second line, a lost node what wasn't
moved yet. Processes that come and go, as those of a long run over a bucket do, share one journal a node, locked for each line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from medray import config
from medray.monitoring.record import PredictionRecord
from medray.monitoring.records import write_records
from medray.storage.location import Location

__all__ = ["Journal", "journals_folder"]

SUFFIX = ".jsonl"
SHARED = f"shared{SUFFIX}"


def journals_folder(store: Location) -> Path:
    """Return the node's own folder for journals on their way to a store."""
    return config.home() / "spool" / "records" / hashlib.sha256(store.path.encode()).hexdigest()[:16]


class Journal:
    """Keeps records until they are in the store. Usable by several threads.

    Args:
        store: Where Parquet files go; see `medray.monitoring.records`.
        folder: Of journals; a local one.
    """

    def __init__(self, store: Location, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder or journals_folder(store)
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._left: dict[Path, tuple[set[str], int]] = {}
        self._open: dict[str, dict[str, Any]] = {}
        self._lines = 0

    @property
    def lines(self) -> int:
        """Lines of this process that aren't moved yet."""
        return self._lines + sum(lines for _, lines in self._left.copy().values())

    def add(self, record: PredictionRecord) -> None:
        """Append what is known of a record so far; it goes to the store when it is complete."""
        facts = _plain(record)
        with self._lock:
            self._append(facts)
            self._open[record.id] = facts

    def share(self, record: PredictionRecord) -> int:
        """Append a whole record to the journal that processes of this node share, and return how many bytes it has.

        Whoever moves next takes it along.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._folder / SHARED
        while True:
            with file.open("a", encoding="utf-8") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                if _is_at(stream, file):  # and wasn't taken while this one waited for its lock
                    stream.write(json.dumps(_plain(record), separators=(",", ":")) + "\n")
                    return stream.tell()

    def complete(self, id_: str, facts: Mapping[str, Any]) -> None:
        """Add the rest of a record: fields of `PredictionRecord`."""
        with self._lock:
            self._append({"id": id_, **facts})
            self._open.pop(id_, None)

    def _append(self, facts: Mapping[str, Any]) -> None:
        if self._file is None:
            self._file = _opened(self._folder)
        self._file.write(json.dumps(facts, separators=(",", ":")) + "\n")
        self._file.flush()
        self._lines += 1

    def move(self) -> int:
        """Move what is there to the store, also what ended processes left, and return how many records that were.

        Raises:
            StorageError: If the store can't be written; nothing is lost then, and the next call tries again.
        """
        with self._lock:
            mine, self._file, lines, self._lines = self._file, None, self._lines, 0
            unfinished = dict(self._open)
            for facts in unfinished.values():  # go on in the next file
                self._append(facts)
        if mine is not None:
            self._left[Path(mine.name)] = set(unfinished), lines
            mine.close()  # which frees its lock
        _take(self._folder / SHARED)
        moved = 0
        for file in sorted({*self._folder.glob(f"*{SUFFIX}")} - {self._folder / SHARED}):
            moved += self._move(file, self._left.get(file, (set[str](), 0))[0])
        self._left = {file: left for file, left in self._left.items() if file.exists()}  # another process may have moved one
        return moved

    def _move(self, file: Path, unfinished: set[str]) -> int:
        """Move one journal, unless its process is still writing it or another is moving it."""
        try:
            stream = file.open("r+", encoding="utf-8")
        except FileNotFoundError:
            return 0
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0
            if not file.exists():  # somebody else has moved it between these two lines
                return 0
            records = [record for record in _read(stream) if record.id not in unfinished]
            write_records(self._store, records, name=file.stem)
            file.unlink()
            return len(records)


def _opened(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    while True:
        file = _named(folder)
        stream = file.open("x", encoding="utf-8")
        fcntl.flock(stream, fcntl.LOCK_EX)
        if _is_at(stream, file):  # and nobody moved it away while it had no lock
            return stream
        stream.close()


def _take(shared: Path) -> None:
    """Give the shared journal a name of its own; the next line begins a new one."""
    try:
        stream = shared.open(encoding="utf-8")
    except FileNotFoundError:
        return
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if _is_at(stream, shared):
            shared.rename(_named(shared.parent))


def _is_at(stream: IO[str], file: Path) -> bool:
    try:
        return os.fstat(stream.fileno()).st_ino == file.stat().st_ino
    except FileNotFoundError:
        return False


def _named(folder: Path) -> Path:
    return folder / f"{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}"


def _plain(record: PredictionRecord) -> dict[str, Any]:
    facts = {one.name: getattr(record, one.name) for one in fields(record)}
    empty = {name for name, value in facts.items() if value in ("", 0, (), {})}
    return {name: value for name, value in facts.items() if name not in empty} | {"at": record.at.isoformat()}


def _read(lines: Iterable[str]) -> list[PredictionRecord]:
    """Put together what each record's lines say; a line that a killed process cut off is left out."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        found.setdefault(facts["id"], {}).update(facts)
    return [_record(facts) for facts in found.values() if "at" in facts]


def _record(facts: Mapping[str, Any]) -> PredictionRecord:
    at = datetime.fromisoformat(facts["at"]).astimezone(UTC)
    return PredictionRecord(**{**facts, "at": at, "embedding": tuple(facts.get("embedding", ()))})
