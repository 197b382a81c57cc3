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
from dataclasses import dataclass, replace

from pydantic import dataclasses as pydantic_dataclasses

from medray import config
from medray.cohort.cohort import CURRENT, SCHEMA_VERSION, Cohort, CohortIndex, open_cohort
from medray.cohort.fingerprint import combine
from medray.cohort.manifest import QUARANTINE_SCHEMA, SERIES_SCHEMA, QuarantineRow, SeriesRow, write_table
from medray.errors import InputError, NotFoundError
from medray.imaging.labels import LabelSchema
from medray.storage.location import Location

__all__ = ["Contents", "commit_cohort", "content_id", "joined"]

ID_LETTERS = 16
MARGIN_NS = 600 * 10**9
"""Before a version became current, another one may have been written by somebody who was about to make that one current."""
PARENT = "parent"


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


Join = Callable[[Contents, Cohort], Contents]
"""Takes another's version into contents; may refuse it."""


def base_of(root: Location) -> Base:
    """Return what a commit builds on. Read it before anything is decided by what the cohort holds.

    Raises:
        InputError: If the current version is damaged, or a newer medray's.
    """
    since_ns = root.join(CURRENT).modified_ns()
    try:
        return Base(open_cohort(root), since_ns)
    except NotFoundError:
        return Base(None, 0)


def joined(contents: Contents, other: Cohort | Contents) -> Contents:
    """Return the union of two versions.

    Of a series in both, the fuller reading stays, and one with a label before one without. Where two readings as full as each
    other show different voxels, one stays and the other is quarantined: two sources may use one name for different people.
    """
    labels = contents.labels or (other.labels if isinstance(other, Contents) else other.index.labels)
    rows: dict[str, SeriesRow] = {}
    refused = dict.fromkeys((*contents.quarantine, *other.quarantine))
    for row in sorted((*contents.rows, *other.rows), key=_fuller):
        lesser = rows.get(row.series)
        if lesser is not None and lesser.instances == row.instances and lesser.volume != row.volume:
            refused[_collision(lesser)] = None
        rows[row.series] = row
    return Contents(tuple(rows.values()), tuple(refused), labels)


def commit_cohort(
    root: Location, contents: Contents, lineage: Mapping[str, str], *, base: Base | None = None, join: Join = joined
) -> Cohort:
    """Write manifest, quarantine and version, join what others committed since, and make the result current.

    Args:
        root: Where the shards already lie.
        contents: Rows in any order.
        lineage: Where it came from.
        base: What the contents were made from; none for what holds everything itself.
        join: See `joined`.

    Raises:
        InputError: If ``join`` refuses another's version; this one isn't current then.
        StorageError: If the store fails; a version that was current before still is, or the new one is.
    """
    base = base or Base(None, 0)
    parents = {base.cohort.index.id} if base.cohort else set[str]()
    pointed = False
    while True:
        cohort, fresh = _write(root, contents, lineage, parents)
        others = _others(root, cohort, base.since_ns)
        if not others and pointed:
            return cohort
        if not others:
            root.join(CURRENT).write(_version(root, cohort.index.id).read())
            pointed = True
            continue
        try:
            for other in others:
                contents = join(contents, other)
        except InputError:
            if fresh and not pointed:  # else nobody else could commit any more
                _version(root, cohort.index.id).remove()
            raise
        parents |= {cohort.index.id, *(other.index.id for other in others)}
        pointed = False


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


def _write(root: Location, contents: Contents, lineage: Mapping[str, str], parents: AbstractSet[str]) -> tuple[Cohort, bool]:
    """Write a version, and return it and whether it is new; one with the same content only learns of further parents."""
    rows, quarantine = _sorted(contents)
    digest = content_id(rows, quarantine, contents.labels)
    manifest, manifest_hash = write_table(root, "manifest", rows, SERIES_SCHEMA)
    refused, refused_hash = write_table(root, "quarantine", quarantine, QUARANTINE_SCHEMA)
    known = _open(root, digest)
    older = set(known.index.lineage.get(PARENT, "").split()) if known else set[str]()
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
        if parents <= older | {digest}:
            return known, False
        index = replace(known.index, lineage={**known.index.lineage, PARENT: index.lineage[PARENT]})
    _version(root, digest).write(json.dumps(config.dump(index), indent=1).encode())
    return Cohort(root, index), known is None


def _version(root: Location, version: str) -> Location:
    return root.join("versions", f"{version}.json")


def _sorted(contents: Contents) -> tuple[list[SeriesRow], list[QuarantineRow]]:
    rows = sorted(contents.rows, key=lambda row: (row.subject, row.time_point, row.series))
    return rows, sorted(contents.quarantine, key=lambda row: (row.source, row.reason, row.detail, row.intake))


def _fuller(row: SeriesRow) -> tuple[object, ...]:
    """Order readings of one series: the last one stays."""
    return row.instances, bool(row.label), row.volume, row.label, row.intake, row.findings, row.source_hash


def _collision(row: SeriesRow) -> QuarantineRow:
    detail = "two runs at the same time took in different voxels under one name: use --site where they are different people's"
    return QuarantineRow(source=row.series, reason="conflicting-series", detail=detail, intake=row.intake)


def _others(root: Location, cohort: Cohort, since_ns: int) -> list[Cohort]:
    """Return versions written since that are neither the cohort nor one that it was made from."""
    entries = root.join("versions").entries()
    recent = {entry.name.removesuffix(".json") for entry in entries if entry.modified_ns >= since_ns - MARGIN_NS}
    known, left = set[str](), [cohort]
    while left:
        made = left.pop()
        known.add(made.index.id)
        parents = set(made.index.lineage.get(PARENT, "").split()) - known
        known |= parents
        left += [parent for version in parents & recent if (parent := _open(root, version)) is not None]
    return [other for version in sorted(recent - known) if (other := _open(root, version)) is not None]


def _open(root: Location, version: str) -> Cohort | None:
    try:
        return open_cohort(root, version=version)
    except NotFoundError:  # somebody has deleted it meanwhile
        return None
