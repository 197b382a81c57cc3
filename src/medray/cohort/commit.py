"""Make a new version of a cohort current, and lose nothing that others commit meanwhile.

Object stores have no lock and a network disk's can't be trusted, so that none is used. A commit writes its version, joins what
others have written since the version that it builds on became current, makes its own current, and looks once more: of two that
commit at once, whoever looks last sees the other. Versions name those that they were made from, so that one's own ancestors are
no others. The union of two versions depends on neither their order nor their number: all who join the same ones come to an end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from pydantic import dataclasses as pydantic_dataclasses

from medray import config
from medray.cohort.ancestry import PARENT, REMADE, opened, parents_of, with_ancestors, written_since
from medray.cohort.cohort import CURRENT, SCHEMA_VERSION, Cohort, CohortIndex, open_cohort
from medray.cohort.fingerprint import combine
from medray.cohort.manifest import QUARANTINE_SCHEMA, SERIES_SCHEMA, QuarantineRow, SeriesRow, write_table
from medray.cohort.shards import shard_location
from medray.cohort.suppression import read_suppressed
from medray.errors import InputError, MedrayError, NotFoundError
from medray.imaging.labels import LabelSchema
from medray.storage.location import Location

__all__ = [
    "Base",
    "Contents",
    "base_of",
    "commit_cohort",
    "content_id",
    "joined",
    "remake_version",
    "restore_version",
]

ID_LETTERS = 16


@dataclass(frozen=True, slots=True)
class Base:
    """What a commit builds on.

    Attributes:
        cohort: The version that was current; None for a first one.
        since_ns: When it became current, by the store's own clock.
    """

    cohort: Cohort | None
    since_ns: int


@pydantic_dataclasses.dataclass(frozen=True, config=config.STRICT)
class Contents:
    """What a version of a cohort is made of."""

    rows: tuple[SeriesRow, ...]
    quarantine: tuple[QuarantineRow, ...]
    labels: LabelSchema | None


Join = Callable[[Contents, Cohort, Cohort | None], Contents]
"""Takes another's version into contents, given what both may build on; may refuse it."""


def base_of(root: Location) -> Base:
    """Return what a commit builds on. Read it before anything is decided by what the cohort holds.

    Raises:
        InputError: If the current version is damaged, or a newer medray's.
    """
    since_ns = root.join(CURRENT).modified_ns()
    try:
        current = open_cohort(root)
    except NotFoundError:
        return Base(None, 0)
    try:
        with suppress(InputError):  # a damaged table is no reason not to restore another version
            _ = current.rows, current.quarantine  # now, for an erasure may delete it
    except NotFoundError:
        if open_cohort(root).index.id == current.index.id:
            raise
        return base_of(root)
    return Base(current, since_ns)


def joined(contents: Contents, other: Cohort | Contents, base: Cohort | Contents | None = None) -> Contents:
    """Return the union of two versions.

    What one of them has left as it was in the base gives way to what the other has made of it. Of a series that both have read,
    the fuller reading stays, and one with a label before one without. Where two readings as full as each other show different
    voxels, one stays and the other is quarantined: two sources may use one name for different people.
    """
    labels = contents.labels or (other.labels if isinstance(other, Contents) else other.index.labels)
    before = {row.series: row for row in base.rows} if base else {}
    mine, theirs = ({row.series: row for row in rows} for rows in (contents.rows, other.rows))
    rows: dict[str, SeriesRow] = {}
    noted: list[QuarantineRow] = []
    for name in mine.keys() | theirs.keys():
        found = [side[name] for side in (mine, theirs) if name in side]
        changed = [row for row in found if not _same(row, before.get(name))] or found
        ordered = sorted(changed, key=_fuller)
        rows[name] = ordered[-1]
        lesser = ordered[0]
        if lesser.instances == rows[name].instances and lesser.volume != rows[name].volume:
            noted.append(_collision(lesser))
    resolved = set(base.quarantine) - (set(contents.quarantine) & set(other.quarantine)) if base else set[QuarantineRow]()
    refused = dict.fromkeys(row for row in (*contents.quarantine, *other.quarantine, *noted) if row not in resolved)
    return Contents(tuple(rows.values()), tuple(refused), labels)


def commit_cohort(
    root: Location,
    contents: Contents,
    lineage: Mapping[str, str],
    *,
    base: Base | None = None,
    join: Join = joined,
    ancestors: AbstractSet[str] = frozenset(),
) -> Cohort:
    """Write manifest, quarantine and version, join what others committed since, and make the result current.

    Args:
        root: Where the shards already lie.
        contents: Rows in any order.
        lineage: Where it came from.
        base: What the contents were made from; none for what holds everything itself.
        join: See `joined`.
        ancestors: Ids of further versions that it is made from: one that is about to be deleted can't be asked for its own.

    Raises:
        InputError: If ``join`` refuses another's version; this one isn't current then.
        StorageError: If the store fails; a version that was current before still is, or the new one is.
    """
    base = base or Base(None, 0)
    parents = {*ancestors} | ({base.cohort.index.id} if base.cohort else set[str]())
    contents, written = _write_allowed(root, contents, lineage, parents)
    pointed = False
    while True:
        version = written.cohort.index.id
        others = written_since(root, written.cohort, base.since_ns or _version(root, version).modified_ns())
        if not others and pointed:
            return written.cohort
        if not others:
            root.join(CURRENT).write(_version(root, version).read())
            pointed = True
            continue
        try:
            for other in others:
                contents = join(contents, other, base.cohort)
        except MedrayError:
            if written.fresh and not pointed:  # else nobody else could commit any more
                _version(root, version).remove()
            raise
        parents |= {version, *(other.index.id for other in others)}
        contents, written = _write_allowed(root, contents, lineage, parents)
        pointed = False


def restore_version(root: Location, version: str) -> Cohort:
    """Make an earlier version current again, as a child of the current one: what came after it is among its ancestors then.

    Raises:
        NotFoundError: If there is no such version.
    """
    old = open_cohort(root, version=version)
    contents = Contents(old.rows, old.quarantine, old.index.labels)
    return commit_cohort(root, contents, {**old.index.lineage, "restored": version}, base=base_of(root))


def remake_version(root: Location, version: Cohort) -> Cohort:
    """Write what a version was without who was erased since, under a name of its own; which version is current stays.

    It is of the past, and no news that a commit has to join.
    """
    contents = _without_erased(root, Contents(version.rows, version.quarantine, version.index.labels))
    lineage = {name: value for name, value in version.index.lineage.items() if name != PARENT}
    return _write(root, contents, {**lineage, REMADE: version.index.id}, set()).cohort


def content_id(rows: Sequence[SeriesRow], quarantine: Sequence[QuarantineRow], labels: LabelSchema | None) -> str:
    """Return the hash of a version's content, its id. ``rows`` and ``quarantine`` are sorted as `commit_cohort` does."""
    facts = [
        [
            [row.subject, row.study, row.series, row.time_point, row.modality, row.volume, row.label, *row.findings]
            for row in rows
        ],
        [[row.source, row.reason] for row in quarantine],
        sorted(labels.names.items()) if labels else [],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:ID_LETTERS]


def _write_allowed(
    root: Location, contents: Contents, lineage: Mapping[str, str], parents: AbstractSet[str]
) -> tuple[Contents, _Written]:
    """Write a version without who was erased, also while it was written: whoever erases somebody later sees it."""
    while True:
        contents = _allowed(root, contents)
        written = _write(root, contents, lineage, parents)
        if _without_erased(root, contents) is contents:
            return contents, written
        root.join(written.cohort.index.manifest).remove()
        _version(root, written.cohort.index.id).remove()


def _allowed(root: Location, contents: Contents) -> Contents:
    """Leave out who was erased (`medray.cohort.erase`), whoever brings them, and delete what was brought."""
    left = _without_erased(root, contents)
    if left is contents:
        return contents
    staying = {row.series for row in left.rows}
    needed = {digest for row in left.rows for digest in (row.volume, row.label)}
    for row in contents.rows:
        for folder, digest in (("volumes", row.volume), ("labels", row.label)):
            if row.series not in staying and digest and digest not in needed:
                shard_location(root.join(folder), digest).remove()
    return left


def _without_erased(root: Location, contents: Contents) -> Contents:
    erased = read_suppressed(root).keys()
    gone = {row.series for row in contents.rows if row.subject in erased}
    if not gone:
        return contents
    rows = tuple(row for row in contents.rows if row.series not in gone)
    return Contents(rows, tuple(row for row in contents.quarantine if row.source not in gone), contents.labels)


class _Written(NamedTuple):
    cohort: Cohort
    fresh: bool
    """Whether there was no version of that name."""


def _write(root: Location, contents: Contents, lineage: Mapping[str, str], parents: AbstractSet[str]) -> _Written:
    """Write a version; one that somebody else has written at the same time only learns of further parents."""
    rows, quarantine = _sorted(contents)
    digest = _name(root, content_id(rows, quarantine, contents.labels), parents)
    manifest, manifest_hash = write_table(root, "manifest", rows, SERIES_SCHEMA)
    refused, refused_hash = write_table(root, "quarantine", quarantine, QUARANTINE_SCHEMA)
    known = opened(root, digest)
    older = parents_of(known) if known else set[str]()
    counts = {
        "subjects": len({row.subject for row in rows}),
        "series": len(rows),
        "labels": sum(bool(row.label) for row in rows),
        "quarantined": len(quarantine),
    }
    index = CohortIndex(
        schema_version=SCHEMA_VERSION,
        id=digest,
        labels=contents.labels,
        counts=counts,
        fingerprint=combine(rows) if rows else None,
        manifest=manifest,
        quarantine=refused,
        hashes={manifest: manifest_hash, refused: refused_hash},
        lineage={**lineage, PARENT: " ".join(sorted((older | parents) - {digest}))},
    )
    if known and known.index.hashes == index.hashes:
        if REMADE in lineage or (digest in parents and parents <= older | {digest}):
            return _Written(known, fresh=False)
        older_lineage = {name: value for name, value in known.index.lineage.items() if name != REMADE}
        index = replace(known.index, lineage={**older_lineage, PARENT: index.lineage[PARENT]})
    _version(root, digest).write(json.dumps(config.dump(index), indent=1).encode())
    return _Written(Cohort(root, index), fresh=known is None)


def _name(root: Location, content: str, parents: AbstractSet[str]) -> str:
    """Return a version's name: its content's hash, with a number where it returns: no version is its own ancestor."""
    name, times = content, 0
    while name not in parents and opened(root, name) is not None and name in with_ancestors(root, parents):
        times += 1
        name = f"{content}-{times}"
    return name


def _version(root: Location, version: str) -> Location:
    return root.join("versions", f"{version}.json")


def _sorted(contents: Contents) -> tuple[list[SeriesRow], list[QuarantineRow]]:
    rows = sorted(contents.rows, key=lambda row: (row.subject, row.time_point, row.series))
    return rows, sorted(contents.quarantine, key=lambda row: (row.source, row.reason, row.detail, row.intake))


def _same(row: SeriesRow, other: SeriesRow | None) -> bool:
    """Tell whether two rows are one, whatever studies came before and after."""
    return other is not None and replace(row, time_point=0) == replace(other, time_point=0)


def _fuller(row: SeriesRow) -> tuple[object, ...]:
    """Order readings of one series: the last one stays."""
    return row.instances, bool(row.label), row.volume, row.label, row.intake, row.findings, row.source_hash


def _collision(row: SeriesRow) -> QuarantineRow:
    detail = "two runs at the same time took in different voxels under one name: use --site where they are different people's"
    return QuarantineRow(source=row.series, reason="conflicting-series", detail=detail, intake=row.intake)
