"""Make a new version of a cohort current, and lose nothing that others commit meanwhile.

Object stores have no lock and a network disk's can't be trusted, so that none is used. A commit writes its version, then makes
it current, then looks at the versions of the last minutes: one that isn't among its ancestors was written by somebody else at
the same time, and the union of both is committed over both. Of two that commit at once, whoever looks last sees the other. The
union depends on neither order nor number, so that all who join the same versions write the same one and come to an end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

from pydantic.dataclasses import dataclass

from medray import config
from medray.cohort.cohort import CURRENT, SCHEMA_VERSION, Cohort, CohortIndex, open_cohort
from medray.cohort.fingerprint import combine
from medray.cohort.manifest import QUARANTINE_SCHEMA, SERIES_SCHEMA, QuarantineRow, SeriesRow, write_table
from medray.errors import NotFoundError
from medray.imaging.labels import LabelSchema
from medray.storage.location import Entry, Location

__all__ = ["Contents", "commit_cohort", "content_id", "joined"]

ID_LETTERS = 16
AT_ONCE_NS = 900 * 10**9
"""Versions that were written so short a time before the newest one may be another's who commits at the same time."""


@dataclass(frozen=True, config=config.STRICT)
class Contents:
    """What a version of a cohort is made of."""

    rows: tuple[SeriesRow, ...]
    quarantine: tuple[QuarantineRow, ...]
    labels: LabelSchema | None


Join = Callable[[Contents, Cohort], Contents]
"""Takes another's version into contents; may refuse it."""


def joined(contents: Contents, other: Cohort | Contents) -> Contents:
    """Return the union of two versions; of a series in both, the fuller reading, and one with a label before one without."""
    labels = contents.labels or (other.labels if isinstance(other, Contents) else other.index.labels)
    rows = {row.series: row for row in sorted((*contents.rows, *other.rows), key=_fuller)}
    refused = dict.fromkeys((*contents.quarantine, *other.quarantine))
    return Contents(tuple(rows.values()), tuple(refused), labels)


def commit_cohort(root: Location, contents: Contents, lineage: Mapping[str, str], join: Join = joined) -> Cohort:
    """Write manifest and quarantine, then the version, then ``cohort.json``; then join what others committed meanwhile.

    Args:
        root: Where the shards already lie.
        contents: Rows in any order.
        lineage: Where it came from; ``parent`` names the version that the contents build on.
        join: See `joined`.

    Raises:
        StorageError: If the store fails; a version that was current before still is, or the new one is.
    """
    while True:
        cohort = _write(root, contents, lineage)
        others = _others(root, cohort, lineage.get("parent", ""))
        for other in others:
            contents = join(contents, other)
        if content_id(*_sorted(contents), contents.labels) == cohort.index.id:
            return cohort
        lineage = {**lineage, "parent": " ".join((cohort.index.id, *(other.index.id for other in others)))}


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


def _write(root: Location, contents: Contents, lineage: Mapping[str, str]) -> Cohort:
    rows, quarantine = _sorted(contents)
    digest = content_id(rows, quarantine, contents.labels)
    known = root.join("versions", f"{digest}.json")
    if known.exists():  # the same content: the version stays as it was written, and becomes the current one
        root.join(CURRENT).write(known.read())
        return open_cohort(root, version=digest)
    manifest, refused = f"manifest-{digest}.parquet", f"quarantine-{digest}.parquet"
    hashes = {
        manifest: write_table(root.join(manifest), rows, SERIES_SCHEMA),
        refused: write_table(root.join(refused), quarantine, QUARANTINE_SCHEMA),
    }
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
        hashes=hashes,
        lineage=dict(lineage),
    )
    data = json.dumps(config.dump(index), indent=1).encode()
    known.write(data)
    root.join(CURRENT).write(data)
    return Cohort(root, index)


def _sorted(contents: Contents) -> tuple[list[SeriesRow], list[QuarantineRow]]:
    rows = sorted(contents.rows, key=lambda row: (row.subject, row.time_point, row.series))
    return rows, sorted(contents.quarantine, key=lambda row: (row.source, row.reason, row.detail, row.intake))


def _fuller(row: SeriesRow) -> tuple[object, ...]:
    """Order readings of one series: the last one stays."""
    return row.instances, bool(row.label), row.volume, row.label, row.intake, row.findings, row.source_hash


def _others(root: Location, cohort: Cohort, parent: str) -> list[Cohort]:
    """Return recent versions that are neither the cohort nor one that it was made from."""
    recent = {entry.name.removesuffix(".json") for entry in _recent(root.join("versions").entries())}
    found: dict[str, Cohort] = {cohort.index.id: cohort}
    known, left = set[str](), [cohort.index.id, *parent.split()]
    while left:
        version = left.pop()
        if version in known:
            continue
        known.add(version)
        if version in recent | found.keys():
            made = found.get(version) or _open(root, version)
            left += made.index.lineage.get("parent", "").split() if made else []
    return [other for version in sorted(recent - known) if (other := _open(root, version)) is not None]


def _recent(versions: Sequence[Entry]) -> list[Entry]:
    newest = max((entry.modified_ns for entry in versions), default=0)
    return [entry for entry in versions if newest - entry.modified_ns < AT_ONCE_NS]


def _open(root: Location, version: str) -> Cohort | None:
    try:
        return open_cohort(root, version=version)
    except NotFoundError:  # somebody has deleted it meanwhile
        return None
