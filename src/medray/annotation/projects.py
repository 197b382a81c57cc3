"""Projects: what is to be labelled, by how many experts a case, by which rules; and which case is whose."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field
from pydantic.dataclasses import dataclass as strict_dataclass

from medray import config
from medray.annotation.assignment import share_out
from medray.annotation.content import Kind
from medray.annotation.identity import cohort_key
from medray.annotation.store import ADJUDICATED, CONSENSUS
from medray.audit import Event, open_trail
from medray.cohort.cohort import open_cohort
from medray.config import STRICT
from medray.database import open_database, reading, told_plainly
from medray.errors import ConfigError, ConflictError, InputError, NotFoundError
from medray.storage.location import Location

__all__ = ["MINE", "PRESENCE", "RESERVED", "Assignment", "Method", "Project", "Projects"]

Method = Literal["staple", "majority"]
PRESENCE = ("absent", "present")
"""The choices of a finding that names none."""

MINE = "mine"
RESERVED = frozenset({MINE, "model", CONSENSUS, ADJUDICATED})
"""What a case's labels are asked for by, beside experts' names."""

_tables = sa.MetaData()
PROJECTS = sa.Table(
    "label_projects", _tables,
    sa.Column("cohort", sa.String(500), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)  # fmt: skip
ASSIGNMENTS = sa.Table(
    "label_assignments", _tables,
    sa.Column("cohort", sa.String(500), primary_key=True),
    sa.Column("project", sa.String(64), primary_key=True),
    sa.Column("series", sa.String(500), primary_key=True),
    sa.Column("annotator", sa.String(200), primary_key=True),
    sa.Column("rank", sa.Integer, nullable=False),
)  # fmt: skip


@strict_dataclass(frozen=True, kw_only=True, config=STRICT)
class Project:
    """What is to be labelled and how.

    Attributes:
        name: Small letters, digits and hyphens.
        kind: What a label says.
        names: What may be said: name to a finding's choices in their order, lowest first (``absent`` and ``present`` where
            there are none). What is drawn has names alone; in label maps they have the values 1, 2, … in turn.
        guidelines: For the experts to read.
        experts: How many label each case.
        blinded: Whether experts see others' labels of a case only when their own is submitted, which is final then unless
            a reviewer rejects it; and others' names never.
        agreement: Mean agreement of a case's experts (Dice of segmentations, share of pairs of experts who say the same of a
            finding or share of boxes and points that are found by both) below which a reviewer is to decide.
        method: How consensus is made of segmentations.
        model: Whose answers experts start from: ``name``, ``name@alias`` or ``name/version``; empty for an empty image.
    """

    name: str = Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")
    kind: Kind = "segmentation"
    names: Mapping[str, tuple[str, ...]]
    guidelines: str = Field(default="", max_length=100_000)
    experts: int = Field(default=1, ge=1, le=100)
    blinded: bool = True
    agreement: float = Field(default=0.0, ge=0, le=1)
    method: Method = "staple"
    model: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 255 or not all(self.names):
            raise ConfigError(f"a project has 1 to 255 names; this one has {len(self.names)}")
        if self.kind != "findings" and any(self.names.values()):
            raise ConfigError(f"only findings have choices; this project is one of {self.kind}")
        if self.model and self.kind != "segmentation":
            raise ConfigError("only segmentations start from a model's answers")
        if self.kind == "findings":
            whole = {name: choices or PRESENCE for name, choices in self.names.items()}
            object.__setattr__(self, "names", whole)
            few = [name for name, choices in whole.items() if len(set(choices)) < 2 or len(set(choices)) < len(choices)]
            if few:
                raise ConfigError(f"finding {few[0]} needs two or more choices, each another one")

    @property
    def values(self) -> dict[str, int]:
        """What a label map's values mean: name to value."""
        return {name: value for value, name in enumerate(self.names, start=1)}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A case that an expert is to label.

    Attributes:
        series: The image.
        annotator: The expert.
        rank: Cases of lower rank come first.
    """

    series: str
    annotator: str
    rank: int


class Projects:
    """Projects over one cohort.

    Args:
        root: The cohort.
    """

    def __init__(self, root: Location) -> None:
        self._root = root
        self._cohort = cohort_key(root)
        self._trail = open_trail()
        self._engine = open_database(_tables)

    def create(self, project: Project, actor: str) -> Project:
        """Begin a project.

        Raises:
            ConflictError: If there is one of this name.
        """
        settings = json.dumps(config.dump(project))
        row = {"cohort": self._cohort, "name": project.name, "settings": settings, "at": time.time()}
        try:
            with told_plainly("projects", "written"), self._engine.begin() as connection:
                try:
                    connection.execute(PROJECTS.insert().values(row))
                except sa.exc.IntegrityError:
                    raise ConflictError(f"there is a project {project.name} already: choose another name") from None
                self._trail.append(connection, [Event("project.create", project.name, actor=actor)])
        except ConflictError:
            if self.get(project.name) == project:  # its author never heard that it was taken, and sent it again
                return project
            raise
        return project

    def all(self) -> list[Project]:
        """Return all projects, by name."""
        return [_project(row.settings) for row in self._read(sa.select(PROJECTS).where(self._ours(PROJECTS)))]

    def get(self, name: str) -> Project:
        """Return a project.

        Raises:
            NotFoundError: If there is none of this name.
        """
        found = self._read(sa.select(PROJECTS).where(*self._named(name)))
        if not found:
            raise NotFoundError(f"there is no project {name[:64]!r}: list them with medray annotate projects ROOT")
        return _project(found[0].settings)

    def assign(self, name: str, experts: Sequence[str], actor: str, *, cases: Sequence[str] | None = None) -> list[Assignment]:
        """Share cases out, so that each has its experts and all experts about as many cases; what is assigned stays.

        Args:
            name: Of the project.
            experts: Names, as their tokens say them.
            actor: Who shares out.
            cases: Series in the order in which they are to be labelled; all of the cohort in the manifest's where None.

        Returns:
            What is new.

        Raises:
            NotFoundError: If there is no such project, or a case isn't in the cohort.
            InputError: If there are fewer experts than a case needs, or one is called as another label of a case is.
        """
        project = self.get(name)
        taken = sorted(set(experts) & RESERVED)
        if taken:
            raise InputError(f"no expert can be called {taken[0]}: that names another label of a case")
        known = [row.series for row in open_cohort(self._root).rows if not row.synthetic]
        unknown = sorted(set(cases or ()) - set(known))
        if unknown:
            raise NotFoundError(f"the cohort has no image {unknown[0][:64]}")
        if len(set(experts)) < project.experts:
            raise InputError(f"{project.experts} experts are to label each case, and {len(set(experts))} are named")
        with told_plainly("assignments", "written"), self._engine.begin() as connection:
            connection.execute(sa.select(PROJECTS.c.name).where(*self._named(name)).with_for_update())  # others wait
            there = _assignments(connection.execute(sa.select(ASSIGNMENTS).where(*self._of(name))).all())
            pairs = [(one.series, one.annotator) for one in there]
            new = share_out(known if cases is None else cases, experts, project.experts, pairs)
            first = max((one.rank for one in there), default=-1) + 1
            made = [Assignment(series, expert, first + place) for place, series, expert in new]
            if made:
                words = {"cohort": self._cohort, "project": name}
                rows = [{**words, "series": one.series, "annotator": one.annotator, "rank": one.rank} for one in made]
                connection.execute(ASSIGNMENTS.insert(), rows)
                self._trail.append(connection, [Event("project.assign", name, detail=f"{len(made)} cases", actor=actor)])
        return made

    def release(self, name: str, expert: str, actor: str, *, keep: Sequence[str] = ()) -> int:
        """Take an expert's cases back, so that `assign` can give them to others.

        Args:
            name: Of the project.
            expert: Who.
            actor: Who takes them back.
            keep: Cases that stay theirs: those whose label counts.

        Returns:
            How many cases.

        Raises:
            NotFoundError: If there is no such project.
        """
        self.get(name)
        theirs = (*self._of(name), ASSIGNMENTS.c.annotator == expert, ASSIGNMENTS.c.series.not_in(list(keep)))
        with told_plainly("assignments", "written"), self._engine.begin() as connection:
            gone = connection.execute(ASSIGNMENTS.delete().where(*theirs)).rowcount
            if gone:
                event = Event("project.release", name, detail=f"{gone} cases of {expert}", actor=actor)
                self._trail.append(connection, [event])
        return gone

    def assigned(self, name: str, annotator: str = "", *, series: str = "") -> list[Assignment]:
        """Return a project's assignments by rank, or one expert's, or one image's."""
        whose = (ASSIGNMENTS.c.annotator == annotator,) if annotator else ()
        which = (ASSIGNMENTS.c.series == series,) if series else ()
        query = sa.select(ASSIGNMENTS).where(*self._of(name), *whose, *which)
        return _assignments(self._read(query.order_by(ASSIGNMENTS.c.rank, ASSIGNMENTS.c.series, ASSIGNMENTS.c.annotator)))

    def of(self, series: str, annotator: str) -> list[str]:
        """Return the names of the projects in which an image is an expert's."""
        mine = (ASSIGNMENTS.c.series == series, ASSIGNMENTS.c.annotator == annotator)
        query = sa.select(ASSIGNMENTS.c.project).where(self._ours(ASSIGNMENTS), *mine)
        return [row.project for row in self._read(query.order_by(ASSIGNMENTS.c.project))]

    def _ours(self, table: sa.Table) -> sa.ColumnElement[bool]:
        return table.c.cohort == self._cohort

    def _named(self, name: str) -> tuple[sa.ColumnElement[bool], ...]:
        return self._ours(PROJECTS), PROJECTS.c.name == name

    def _of(self, name: str) -> tuple[sa.ColumnElement[bool], ...]:
        return self._ours(ASSIGNMENTS), ASSIGNMENTS.c.project == name

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with told_plainly("projects", "read"), reading(self._engine) as connection:
            return connection.execute(query).all()


def _assignments(rows: Iterable[sa.Row[Any]]) -> list[Assignment]:
    return [Assignment(row.series, row.annotator, row.rank) for row in rows]


def _project(settings: str) -> Project:
    return config.load(Project, json.loads(settings), what="the project")
