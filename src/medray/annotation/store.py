"""Labels by many people: each change a new version, and nothing that is overwritten.

A label is one person's work on one image, in a project or outside of any. Its versions are rows in the database, each with the
one that it follows; label maps lie beside the cohort's own in ``ROOT/labels``, named by their content. Who changes a label says
which version they saw: of two who saw the same, the second is told so and nothing of either is lost. The audit trail's event of
an act is in the act's own transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import sqlalchemy as sa

from medray.annotation.content import Kind
from medray.annotation.identity import cohort_key
from medray.audit import Event, open_trail
from medray.cohort.shards import read_shard, write_shard
from medray.database import open_database, reading, told_plainly
from medray.errors import ConflictError, InputError, NotFoundError, OutdatedError
from medray.imaging.volume import Volume
from medray.storage.location import Location

__all__ = [
    "ADJUDICATED",
    "CONSENSUS",
    "EFFORT",
    "FINAL",
    "LIVE",
    "PRELABEL",
    "Label",
    "LabelStore",
    "Status",
    "Version",
]

FINAL = "final"
"""The tag of a label that somebody drew, and says is done."""
CONSENSUS = "consensus"
"""The tag of what was made of several experts' labels."""
ADJUDICATED = "adjudicated"
"""The tag of what a reviewer decided where experts differ."""
PRELABEL = "prelabel"
"""The tag of what a model says, for experts to start from."""
Status = Literal["draft", "submitted", "approved", "rejected", "withdrawn"]
LIVE: tuple[Status, ...] = ("submitted", "approved")
"""What counts: a draft doesn't yet, and what was rejected or withdrawn no more."""
EFFORT = ("seconds", "edits")
MAKING = (*EFFORT, "start", "changed")
"""What is said of how a label was made."""
AGAIN = 20
"""Attempts of who doesn't say which version they saw, each after somebody else was quicker."""

_tables = sa.MetaData()
VERSIONS = sa.Table(
    "label_versions", _tables,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("cohort", sa.String(500), nullable=False),
    sa.Column("project", sa.String(64), nullable=False),
    sa.Column("series", sa.String(500), nullable=False),
    sa.Column("tag", sa.String(64), nullable=False),
    sa.Column("annotator", sa.String(200), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("parent", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("names", sa.Text, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.UniqueConstraint("cohort", "project", "series", "tag", "annotator", "step", name="one_after_another"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Label:
    """Whose label of which image.

    Attributes:
        series: The image: a row of the cohort's manifest.
        annotator: Whose; empty for one that a project's reviewers have in common.
        tag: What it is for, such as ``final`` or ``version_2``.
        project: Empty outside of any.
    """

    series: str
    annotator: str
    tag: str = FINAL
    project: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A label as it was at one time.

    Attributes:
        label: Whose, of which image.
        status: See `Status`.
        actor: Who made this version, such as the reviewer who approved the one before.
        kind: What it says.
        content: Of a segmentation the content hash of its label map, JSON of all else.
        names: What a label map's values mean: name to value.
        facts: What the annotator's tool, or a reviewer, says of it.
        number: Rises with every version of any label; 0 before it is stored.
        step: Of this label: 1, 2, …
        parent: Number of the version before, 0 for the first.
        at: Seconds since 1970.
    """

    label: Label
    status: Status
    actor: str
    kind: Kind = "segmentation"
    content: str = ""
    names: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    step: int = 0
    parent: int = 0
    at: float = 0.0

    @property
    def live(self) -> bool:
        """Whether it counts."""
        return self.status in LIVE

    def saying(self, said: Any) -> Version:
        """Return the same, with findings, boxes or points for its content."""
        return replace(self, content=json.dumps(said))

    @property
    def said(self) -> Any:
        """What findings, boxes or points say."""
        return json.loads(self.content)


class LabelStore:
    """Labels of one cohort's images.

    Args:
        root: The cohort.
    """

    def __init__(self, root: Location) -> None:
        self._root = root
        self._cohort = cohort_key(root)
        self._trail = open_trail()
        self._engine = open_database(_tables)

    def draw(self, version: Version, mask: Volume, *, seen: int | None = None) -> Version:
        """Add a segmentation: see `add`.

        Args:
            version: Without its content.
            mask: uint8 in one channel, on the image's own grid.
            seen: See `add`.
        """
        shard = write_shard(self._root.join("labels"), mask)
        return self.add(replace(version, kind="segmentation", content=shard.digest), seen=seen)

    def add(self, version: Version, *, seen: int | None = None) -> Version:
        """Add a version of a label; when this returns, it outlives a crash. To add one twice is to add it once.

        Args:
            version: Without number, step, parent and time.
            seen: Number of the newest version that its author saw, 0 for none; None to add it whatever there is.

        Returns:
            The version as it is stored.

        Raises:
            OutdatedError: If there is a newer one than its author saw.
            StorageError: If it can't be stored.
        """
        for _ in range(AGAIN):
            try:
                with told_plainly("labels", "written"), self._engine.begin() as connection:
                    return self._append(connection, version, seen)
            except _Overtaken:
                continue
        raise ConflictError("others change this label all the time: try again")

    def amend(
        self, label: Label, actor: str, facts: Mapping[str, Any], *, status: Status | None = None, seen: int | None = None
    ) -> Version:
        """Say something else of a label, such as that it is approved.

        Raises:
            NotFoundError: If there is none.
            OutdatedError: If there is a newer version than ``seen``.
        """
        last = self.head(label)
        return self.add(
            replace(last, status=status or last.status, actor=actor, facts={**last.facts, **facts}),
            seen=last.number if seen is None else seen,
        )

    def withdraw(self, series: str, tag: str, actor: str) -> None:
        """Take all labels of a tag back that are in no project: they are no longer the latest, and still stored.

        Raises:
            NotFoundError: If there is none.
        """
        found = [one for one in self.heads(series=series, tag=tag, project="") if one.status != "withdrawn"]
        if not found:
            raise NotFoundError(f"image {series} has no label {tag}")
        for one in found:
            self.add(replace(one, status="withdrawn", actor=actor))

    def drawn(self, series: Sequence[str]) -> list[str]:
        """Return the content hashes of all label maps of some images."""
        with told_plainly("labels", "read"), reading(self._engine) as connection:
            rows = connection.execute(_columns().where(*self._on(series))).mappings()
            found = [_version(row) for row in rows]
        return sorted({one.content for one in found if one.kind == "segmentation" and one.content})

    def erase(self, series: Sequence[str]) -> list[str]:
        """Delete every version of every label of some images, and return the content hashes of their label maps.

        The audit trail keeps that there were labels, and of which pseudonyms; nothing of what they say.
        """
        drawn = self.drawn(series)
        with told_plainly("labels", "deleted"), self._engine.begin() as connection:
            connection.execute(VERSIONS.delete().where(*self._on(series)))
        return drawn

    def _on(self, series: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
        return VERSIONS.c.cohort == self._cohort, VERSIONS.c.series.in_(list(series))

    def head(self, label: Label) -> Version:
        """Return the newest version of a label, whatever its status.

        Raises:
            NotFoundError: If there is none.
        """
        found = self.heads(**asdict(label))
        if not found:
            raise NotFoundError(f"image {label.series} has no such label")
        return found[0]

    def latest(self, series: str, tag: str) -> Version:
        """Return the newest label of a tag outside projects, whoever's, unless it is a draft or was withdrawn.

        Raises:
            NotFoundError: If there is none.
        """
        found = [one for one in self.heads(series=series, tag=tag, project="") if one.status not in {"draft", "withdrawn"}]
        if not found:
            raise NotFoundError(f"image {series} has no label {tag}")
        return max(found, key=lambda one: one.number)

    def current(self) -> dict[tuple[str, str], Version]:
        """Return what `latest` would of each image and tag."""
        found = sorted(self.heads(project=""), key=lambda one: one.number)
        return {(one.label.series, one.label.tag): one for one in found if one.status not in {"draft", "withdrawn"}}

    def heads(self, **wanted: str) -> list[Version]:
        """Return the newest version of every label whose `Label` fields are as wanted, in the order of their numbers."""
        key = (VERSIONS.c.project, VERSIONS.c.series, VERSIONS.c.tag, VERSIONS.c.annotator)
        newest = sa.select(sa.func.max(VERSIONS.c.number)).where(*self._of(wanted)).group_by(*key)
        return self._read(VERSIONS.c.number.in_(newest))

    def history(self, **wanted: str) -> list[Version]:
        """Return every version of such labels, the oldest first."""
        return self._read(*self._of(wanted))

    def version(self, number: int) -> Version:
        """Return a version by its number.

        Raises:
            NotFoundError: If there is none.
        """
        found = self._read(*self._of({}), VERSIONS.c.number == number)
        if not found:
            raise NotFoundError(f"there is no version {number} of a label")
        return found[0]

    def mask(self, version: Version) -> Volume:
        """Read a segmentation's label map, ``(1, I, J, K)`` on its image's grid.

        Raises:
            InputError: If it is no segmentation.
        """
        if version.kind != "segmentation":
            raise InputError(f"the label is of the kind {version.kind}, which has no label map")
        return read_shard(self._root.join("labels"), version.content)

    def _of(self, wanted: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
        return [VERSIONS.c.cohort == self._cohort, *(VERSIONS.c[name] == value for name, value in wanted.items())]

    def _append(self, connection: sa.Connection, version: Version, seen: int | None) -> Version:
        last = self._last(connection, version.label)
        if last and seen is not None and last.number != seen:
            if last.parent == seen and _same(last, version):
                return last  # its author never heard that it was taken, and sent it again
            raise OutdatedError(f"version {last.number} of this label is newer than what was seen ({seen or 'none'})")
        if not last and seen:
            raise OutdatedError(f"this label has no version {seen}")
        number, step = (last.number, last.step) if last else (0, 0)
        made = replace(version, step=step + 1, parent=number, at=time.time())
        try:
            done = connection.execute(VERSIONS.insert().values(cohort=self._cohort, **_row(made)))
        except sa.exc.IntegrityError:  # somebody else's transaction was quicker
            if seen is None:
                raise _Overtaken from None
            raise OutdatedError("somebody else changed this label at the same time: look at it") from None
        key = done.inserted_primary_key
        made = replace(made, number=key[0] if key else 0)
        self._trail.append(connection, [_event(made)])
        return made

    def _last(self, connection: sa.Connection, label: Label) -> Version | None:
        query = _columns().where(*self._of(asdict(label))).order_by(VERSIONS.c.step.desc()).limit(1)
        row = connection.execute(query).mappings().first()
        return _version(row) if row else None

    def _read(self, *wanted: sa.ColumnElement[bool]) -> list[Version]:
        query = _columns().where(*wanted).order_by(VERSIONS.c.number)
        with told_plainly("labels", "read"), reading(self._engine) as connection:
            return [_version(row) for row in connection.execute(query).mappings()]


class _Overtaken(Exception):  # noqa: N818 - nothing is wrong: it is done again
    """Somebody else's version came first."""


def _same(stored: Version, new: Version) -> bool:
    """Tell whether two versions say the same; how long it took may have been counted on since."""
    told = {name: value for name, value in new.facts.items() if name not in MAKING}
    facts = {**told, **{name: value for name, value in stored.facts.items() if name in MAKING}}
    return stored == replace(new, number=stored.number, step=stored.step, parent=stored.parent, at=stored.at, facts=facts)


def _event(version: Version) -> Event:
    label = version.label
    place = "/".join(word for word in (label.project, label.series, label.tag) if word)
    whose = f"of {label.annotator}" if label.annotator and label.annotator != version.actor else ""
    return Event(f"label.{version.status}", place, detail=f"version {version.number} {whose}".strip(), actor=version.actor)


def _columns() -> sa.Select[Any]:
    return sa.select(*(column for column in VERSIONS.c if column.name != "cohort"))


def _row(version: Version) -> dict[str, Any]:
    plain = asdict(version)
    label = plain.pop("label")
    del plain["number"]
    return {**plain, **label, "names": json.dumps(plain["names"]), "facts": json.dumps(plain["facts"])}


def _version(row: Mapping[Any, Any]) -> Version:
    fields = dict(row)
    label = Label(**{name: fields.pop(name) for name in Label.__dataclass_fields__})
    return Version(label, **{**fields, "names": json.loads(fields["names"]), "facts": json.loads(fields["facts"])})
