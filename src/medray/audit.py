"""Who did what, when, and how it ended: an append-only trail whose events are chained by hashes.

Each event's hash covers its own fields and the hash of the event before it, and a head row counts them, so that an edited,
removed or reordered event is found. With ``MEDRAY_KEY`` the hashes are keyed (HMAC-SHA-256): whoever can write the database but
has no key can't make the chain whole again. SQLite in `MEDRAY_HOME` by default, any database by ``MEDRAY_DATABASE_URL``.
No patient data: targets are pseudonyms.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import hmac
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from medray import config
from medray.database import open_database, reading, told_plainly

__all__ = ["Event", "Recorded", "Trail", "Verdict", "open_trail"]

GENESIS = "0" * 64
VERIFIED_AT_ONCE = 10_000

_tables = sa.MetaData()
EVENTS = sa.Table(
    "audit_events", _tables,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.String(300), nullable=False),
    sa.Column("outcome", sa.String(64), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)  # fmt: skip
HEAD = sa.Table(
    "audit_head", _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("seal", sa.String(64), nullable=False),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        action: A verb with its room: ``ingest.read``, ``cohort.commit``, ``pacs.store``.
        target: What it was done to: a pseudonym, a cohort id, a model version.
        outcome: ``ok``, or a reason such as ``missing-slices``.
        detail: More, without patient data.
        actor: Who; the operating system's user and host by default.
    """

    action: str
    target: str
    outcome: str = "ok"
    detail: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event in the trail."""

    number: int
    at: str
    actor: str
    action: str
    target: str
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found.

    Attributes:
        events: How many there are.
        keyed: How many of them are bound by the key.
        head: Number and digest of the last one; note it elsewhere to be able to tell when the whole trail is replaced.
        problems: One line each; empty when the trail is whole.
    """

    events: int
    keyed: int
    head: str
    problems: tuple[str, ...]


class _Head(NamedTuple):
    """Where the trail ends."""

    number: int
    digest: str
    seal: str


class Trail:
    """An audit trail, open for appending and reading.

    Args:
        engine: Of its database.
        key: Binds the hashes; empty for plain ones.
    """

    def __init__(self, engine: sa.Engine, key: bytes) -> None:
        self._engine = engine
        self._key = key

    def record(self, events: Iterable[Event]) -> None:
        """Append events in one transaction.

        Raises:
            StorageError: If the database can't be written; what isn't recorded must not go on.
        """
        new = list(events)
        if not new:
            return
        with told_plainly("the audit trail", "written"), self._engine.begin() as connection:
            self.append(connection, new)

    def head(self) -> str:
        """Return number and digest of the last event, ``0:…`` for an empty trail."""
        row = self._head()
        return f"{row.number}:{row.digest}" if row else f"0:{GENESIS}"

    def events(self, *, action: str = "") -> Iterator[Recorded]:
        """Yield events in order, those of one action or all."""
        for row in self._rows(*((EVENTS.c.action == action,) if action else ())):
            yield Recorded(**{name: row[name] for name in Recorded.__dataclass_fields__})

    def verify(self, *, anchor: str = "") -> Verdict:
        """Recompute every hash.

        Args:
            anchor: A head that was noted earlier, as ``number:digest``; it must still be in the trail.
        """
        problems: list[str] = []
        previous, expected, keyed, anchored = GENESIS, 1, 0, not anchor or anchor.startswith("0:")
        head = self._head()
        while True:
            for row in self._rows(EVENTS.c.number >= expected):
                fields = dict(row)
                digest, key_id = fields.pop("digest"), fields["key_id"]
                problems += self._problems(fields, digest, previous, expected, keyed=keyed > 0)
                keyed += bool(key_id)
                anchored = anchored or anchor == f"{fields['number']}:{digest}"
                previous, expected = digest, fields["number"] + 1
            now = self._head()
            if now == head:
                break
            head = now  # events came meanwhile: they are looked at, too
        last = (head.number, head.digest) if head else (0, GENESIS)
        if head and self._key and not hmac.compare_digest(head.seal, _seal(head.number, head.digest, self._key)):
            problems.append("the head isn't bound by the key: the trail was cut or forged, or last written without MEDRAY_KEY")
        if last != (expected - 1, previous):
            problems.append(f"the trail ends at event {expected - 1} and should end at {last[0]}")
        if not anchored:
            problems.append("the anchor is not in the trail: it was replaced or cut")
        return Verdict(expected - 1, keyed, f"{expected - 1}:{previous}", tuple(problems))

    def _problems(self, fields: dict[str, Any], digest: str, previous: str, expected: int, *, keyed: bool) -> Iterator[str]:
        """Say what is wrong with one event, given the digest of the one before and whether any before is bound by a key."""
        number, key_id = fields["number"], fields["key_id"]
        if keyed and not key_id:
            yield f"event {number} isn't bound by a key as those before it are: forged, or made without"
        if number != expected:
            yield f"events {expected} to {number - 1} are missing"
        if key_id and key_id != _key_id(self._key):
            yield f"event {number} is bound by another key ({key_id}): verify with that one"
        elif _digest(fields, previous, self._key if key_id else b"") != digest:
            yield f"event {number} was changed, moved, or follows one that was removed"

    def _head(self) -> _Head | None:
        with told_plainly("the audit trail", "read"), reading(self._engine) as connection:
            row = connection.execute(sa.select(HEAD.c.number, HEAD.c.digest, HEAD.c.seal)).first()
        return _Head(row.number, row.digest, row.seal) if row else None

    def _rows(self, *wanted: sa.ColumnElement[bool]) -> Iterator[Mapping[Any, Any]]:
        """Yield events in order; between some and the next, others may write."""
        last = 0
        while True:
            query = sa.select(EVENTS).where(EVENTS.c.number > last, *wanted).order_by(EVENTS.c.number).limit(VERIFIED_AT_ONCE)
            with told_plainly("the audit trail", "read"), reading(self._engine) as connection:
                rows = connection.execute(query).mappings().all()
            yield from rows
            if len(rows) < VERIFIED_AT_ONCE:
                return
            last = rows[-1]["number"]

    def append(self, connection: sa.Connection, events: Iterable[Event]) -> None:
        """Append events within the caller's transaction, so that there is neither an act without its event nor the reverse.

        Args:
            connection: In a transaction, of the database that the trail is in.
            events: One or more.
        """
        number, digest = self._end(connection)
        rows = []
        for event in events:
            number += 1
            fields: dict[str, Any] = {
                "number": number,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                **asdict(event),
                "actor": event.actor or _me(),
                "key_id": _key_id(self._key),
            }
            digest = _digest(fields, digest, self._key)
            rows.append({**fields, "digest": digest})
        connection.execute(EVENTS.insert(), rows)
        values = {"number": number, "digest": digest, "seal": _seal(number, digest, self._key)}
        connection.execute(HEAD.update().values(values))

    def _end(self, connection: sa.Connection) -> tuple[int, str]:
        """Return number and digest of the last event, which others wait for from here on."""
        locked = sa.select(HEAD.c.number, HEAD.c.digest).with_for_update()
        head = connection.execute(locked).first()
        if head is None:
            first = HEAD.insert().values(id=1, number=0, digest=GENESIS, seal=_seal(0, GENESIS, self._key))
            with contextlib.suppress(sa.exc.IntegrityError), connection.begin_nested():  # of two who begin it, one waits here
                connection.execute(first)
            head = connection.execute(locked).one()
        return head.number, head.digest


def open_trail() -> Trail:
    """Open the trail that the environment names, and make it if it isn't there.

    Raises:
        ConfigError: If ``MEDRAY_DATABASE_URL`` can't be used.
    """
    return Trail(open_database(_tables), config.derived_key("audit"))


def _me() -> str:
    return f"{getpass.getuser()}@{platform.node()}"


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16] if key else ""


def _seal(number: int, digest: str, key: bytes) -> str:
    """Bind the head, so that whoever cuts the trail's end can't say that it ended there."""
    return hmac.new(key or b"no key", f"{number}:{digest}".encode(), hashlib.sha256).hexdigest()


def _digest(fields: dict[str, Any], previous: str, key: bytes) -> str:
    text = json.dumps([previous, *sorted(fields.items())], ensure_ascii=True).encode()
    return hmac.new(key, text, hashlib.sha256).hexdigest() if key else hashlib.sha256(text).hexdigest()
