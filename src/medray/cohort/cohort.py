"""Open and read a cohort.

::

    ROOT/cohort.json                     the current version, written last: its presence means completeness
    ROOT/versions/<id>.json              every version; cohort.json is a copy of one of them
    ROOT/manifest-<hash>.parquet         a row a series
    ROOT/quarantine-<hash>.parquet       source, reason, detail
    ROOT/volumes/part-<hash>.parquet     see `medray.cohort.shards`
    ROOT/labels/part-<hash>.parquet

Manifest and quarantine carry their hashes in their names, so that nothing a reader may have open is ever overwritten:
a run that is killed leaves the old version whole, or none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from medray import config
from medray.cohort.fingerprint import Fingerprint
from medray.cohort.manifest import QuarantineRow, SeriesRow, read_table
from medray.cohort.shards import read_shard
from medray.errors import InputError, NotFoundError, StorageError
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.storage.location import Location, locate
from medray.types import Mask

__all__ = ["CURRENT", "SCHEMA_VERSION", "Cohort", "CohortIndex", "open_cohort"]

SCHEMA_VERSION = 3
CURRENT = "cohort.json"


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class CohortIndex:
    """``cohort.json``.

    Attributes:
        schema_version: Of this layout.
        id: Hash of the content; with a number where that content is current for another time.
        labels: What label values mean, or None without labels.
        counts: How many subjects, series, labels and quarantined.
        fingerprint: None when no series could be read.
        manifest: File name of the manifest.
        quarantine: File name of the quarantine table.
        hashes: File name to SHA-256 of both tables.
        lineage: Where it came from: profile, a check of the key, the versions it was made from (``parent``), medray's version,
            where the audit trail stood.
    """

    schema_version: int
    id: str
    labels: LabelSchema | None
    counts: Mapping[str, int]
    fingerprint: Fingerprint | None
    manifest: str
    quarantine: str
    hashes: Mapping[str, str]
    lineage: Mapping[str, str]


class Cohort:
    """One version of a cohort, open for reading.

    Args:
        root: The cohort's folder.
        index: Its ``cohort.json``.
    """

    def __init__(self, root: Location, index: CohortIndex) -> None:
        self.root = root
        self.index = index

    @cached_property
    def rows(self) -> tuple[SeriesRow, ...]:
        """The manifest, sorted by subject, time point and series."""
        return tuple(
            config.load(SeriesRow, row, what="the manifest") for row in read_table(self.root.join(self.index.manifest))
        )

    @cached_property
    def quarantine(self) -> tuple[QuarantineRow, ...]:
        """What could not be taken in."""
        table = read_table(self.root.join(self.index.quarantine))
        return tuple(config.load(QuarantineRow, row, what="the quarantine") for row in table)

    @property
    def subjects(self) -> list[str]:
        """Pseudonyms, sorted."""
        return sorted({row.subject for row in self.rows})

    def volume(self, row: SeriesRow) -> Volume:
        """Read a series' volume on its source grid."""
        return read_shard(self.root.join("volumes"), row.volume)

    def mask(self, row: SeriesRow) -> Mask:
        """Read a series' label map ``(I, J, K)`` on its source grid.

        Raises:
            NotFoundError: If the series has none.
        """
        if not row.label:
            raise NotFoundError(f"series {row.series} has no label map")
        mask: Mask = read_shard(self.root.join("labels"), row.label).voxels[0]
        return mask


def open_cohort(root: str | Path | Location, *, version: str | None = None) -> Cohort:
    """Open a cohort.

    Args:
        root: Its folder, a path or a URI.
        version: A cohort id; the current one by default.

    Raises:
        NotFoundError: If there is no complete cohort, or not that version.
        InputError: If a newer medray wrote it.
    """
    place = locate(root)
    file = place.join(CURRENT) if version is None else place.join("versions", f"{version}.json")
    if not file.exists():
        what = "no complete cohort" if version is None else f"no version {version}"
        raise NotFoundError(f"{what} at {place.path}: run medray ingest SRC {place.path}")
    data = _read_index(file, place)
    if data.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"cohort at {place.path} has schema {data.get('schema_version')}; this medray reads {SCHEMA_VERSION}")
    return Cohort(place, config.load(CohortIndex, data, what="cohort.json"))


def _read_index(file: Location, place: Location, attempts: int = 5) -> dict[str, Any]:
    """Read ``cohort.json``, again where a commit replaces it at the same moment."""
    try:
        data: dict[str, Any] = json.loads(file.read())
    except (ValueError, StorageError) as error:
        refused = isinstance(error, StorageError) and error.refused
        if attempts > 1 and not refused:
            time.sleep(0.05)
            return _read_index(file, place, attempts - 1)
        if isinstance(error, StorageError):
            raise
        raise InputError(
            f"{file.path} is damaged: ingest again, or medray cohort restore {place.path} VERSION with one of its versions/"
        ) from None
    return data
