"""Labels that people submit: each a new row, and voxels that nothing overwrites.

Rows are in the database, label maps beside the cohort's own in ``ROOT/labels``, named by their content. What somebody changes
or takes back is a further row: what was there before stays to be read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from medray.cohort.shards import read_shard, write_shard
from medray.database import open_database, told_plainly
from medray.errors import NotFoundError
from medray.imaging.volume import Volume
from medray.storage.location import Location

__all__ = ["FINAL", "LabelStore", "Submission"]

FINAL = "final"
"""The tag of a label that is done: what training may use."""

_tables = sa.MetaData()
SUBMISSIONS = sa.Table(
    "labels", _tables,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("cohort", sa.String(500), nullable=False, index=True),
    sa.Column("series", sa.String(120), nullable=False, index=True),
    sa.Column("tag", sa.String(64), nullable=False),
    sa.Column("annotator", sa.String(200), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("mask", sa.String(64), nullable=False),
    sa.Column("names", sa.Text, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Submission:
    """One person's label map of one image, at one time.

    Attributes:
        number: Rises with every submission; 0 before it is stored.
        series: The image: a row of the cohort's manifest.
        tag: What kind of label it is, such as ``final`` or ``version_2``.
        annotator: Whose it is.
        at: Seconds since 1970.
        mask: Content hash of the label map; empty where it was withdrawn.
        names: What its values mean: name to value.
        facts: What the annotator's tool says of it.
    """

    number: int
    series: str
    tag: str
    annotator: str
    at: float
    mask: str
    names: Mapping[str, int]
    facts: Mapping[str, Any]


class LabelStore:
    """Submissions about one cohort's images.

    Args:
        root: The cohort.
    """

    def __init__(self, root: Location) -> None:
        self._root = root
        self._engine = open_database(_tables)

    def submit(
        self, series: str, tag: str, annotator: str, label: Volume, names: Mapping[str, int], facts: Mapping[str, Any]
    ) -> Submission:
        """Add a label map; when this returns, it outlives a crash.

        Args:
            series: The image.
            tag: What kind of label it is.
            annotator: Whose.
            label: uint8 in one channel, on the image's own grid.
            names: What its values mean.
            facts: JSON-ready.

        Raises:
            StorageError: If it can't be stored.
        """
        shard = write_shard(self._root.join("labels"), label)
        return self._add(Submission(0, series, tag, annotator, time.time(), shard.digest, names, facts))

    def amend(self, series: str, tag: str, annotator: str, facts: Mapping[str, Any]) -> Submission:
        """Say something else of a label map.

        Raises:
            NotFoundError: If there is none.
        """
        last = self.latest(series, tag)
        return self._add(Submission(0, series, tag, annotator, time.time(), last.mask, last.names, {**last.facts, **facts}))

    def withdraw(self, series: str, tag: str, annotator: str) -> Submission:
        """Take a label map back: it is no longer the latest, and still stored.

        Raises:
            NotFoundError: If there is none.
        """
        last = self.latest(series, tag)
        return self._add(Submission(0, series, tag, annotator, time.time(), "", last.names, last.facts))

    def latest(self, series: str, tag: str) -> Submission:
        """Return the newest submission of a tag.

        Raises:
            NotFoundError: If there is none, or it was withdrawn.
        """
        found = self._read(SUBMISSIONS.c.series == series, SUBMISSIONS.c.tag == tag)
        if not found or not found[-1].mask:
            raise NotFoundError(f"image {series} has no label {tag}")
        return found[-1]

    def current(self) -> dict[tuple[str, str], Submission]:
        """Return the newest submission of each image and tag, those that were withdrawn left out."""
        newest = (
            sa.select(sa.func.max(SUBMISSIONS.c.number)).where(self._ours).group_by(SUBMISSIONS.c.series, SUBMISSIONS.c.tag)
        )
        return {(found.series, found.tag): found for found in self._read(SUBMISSIONS.c.number.in_(newest)) if found.mask}

    def history(self, series: str) -> list[Submission]:
        """Return all that was ever submitted of an image, the oldest first."""
        return self._read(SUBMISSIONS.c.series == series)

    def label(self, submission: Submission) -> Volume:
        """Read a label map, ``(1, I, J, K)`` on its image's grid.

        Raises:
            NotFoundError: If it was withdrawn.
        """
        return read_shard(self._root.join("labels"), submission.mask)

    @property
    def _ours(self) -> sa.ColumnElement[bool]:
        return SUBMISSIONS.c.cohort == self._root.path

    def _add(self, submission: Submission) -> Submission:
        values = {
            name: getattr(submission, name)
            for name in Submission.__dataclass_fields__
            if name not in {"number", "names", "facts"}
        }
        plain = {"names": json.dumps(dict(submission.names)), "facts": json.dumps(dict(submission.facts))}
        with told_plainly("labels", "written"), self._engine.begin() as connection:
            done = connection.execute(SUBMISSIONS.insert().values(cohort=self._root.path, **values, **plain))
        fields = {name: getattr(submission, name) for name in Submission.__dataclass_fields__}
        number = done.inserted_primary_key
        return Submission(**{**fields, "number": number[0] if number else 0})

    def _read(self, *wanted: sa.ColumnElement[bool]) -> list[Submission]:
        names = list(Submission.__dataclass_fields__)
        query = sa.select(*(SUBMISSIONS.c[name] for name in names)).where(self._ours, *wanted).order_by(SUBMISSIONS.c.number)
        with told_plainly("labels", "read"), self._engine.connect() as connection:
            found = [row._mapping for row in connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's public name for it
        return [Submission(**{**row, "names": json.loads(row["names"]), "facts": json.loads(row["facts"])}) for row in found]
