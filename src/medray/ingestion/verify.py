"""`verify`: read a cohort again, hash everything, and name what was damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort, open_cohort
from medray.cohort.commit import content_id
from medray.cohort.manifest import SeriesRow
from medray.cohort.shards import content_hash, read_shard, shard_location
from medray.engine import stream
from medray.errors import InputError, MedrayError, NotFoundError
from medray.ingestion.ledger import redo

__all__ = ["check_series", "verify"]


def verify(
    root: str | Path,
    *,
    version: str | None = None,
    quick: bool = False,
    repair: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[str]:
    """Check a version of a cohort.

    Args:
        root: The cohort's folder.
        version: Its id; the current one by default.
        repair: Delete damaged shards and note them, so that the next ingestion of their sources makes them again.
        quick: Compare the object store's own checksums instead of reading the voxels; on a disk, only that files are there.
        on_progress: Called with ``("verify", done, total)``.

    Returns:
        One line for each thing that is wrong; empty when the cohort is whole.

    Raises:
        NotFoundError: If there is no such cohort.
        StorageError: If the store can't be reached.
    """
    cohort = open_cohort(root, version=version)
    problems, damaged = _check_index(cohort), []
    rows = () if any(cohort.index.manifest in problem for problem in problems) else cohort.rows
    checks = stream(rows, lambda row: (row.intake, check_series(cohort, row, quick=quick, repair=repair)))
    for done, (intake, found) in enumerate(checks, start=1):
        problems += found
        damaged += [intake] if found else []
        on_progress("verify", done, len(rows))
    if repair and damaged:
        redo(cohort.root, damaged)
    outcome = "ok" if not problems else "damaged"
    open_trail().record([Event("cohort.verify", cohort.index.id, outcome, f"{len(rows)} series, {len(problems)} problems")])
    return sorted(problems)


def _check_index(cohort: Cohort) -> list[str]:
    """Check the tables against their hashes, the current version against its copy, and the id against the content."""
    problems = [problem for name, digest in cohort.index.hashes.items() if (problem := _check_table(cohort, name, digest))]
    if not problems and content_id(cohort.rows, cohort.quarantine, cohort.index.labels) != cohort.index.id.partition("-")[0]:
        problems.append(f"the content is not that of cohort {cohort.index.id}")
    try:
        copied = open_cohort(cohort.root, version=cohort.index.id).index == cohort.index
    except MedrayError:
        copied = False
    if not copied:
        problems.append(f"cohort.json and versions/{cohort.index.id}.json differ")
    return problems


def _check_table(cohort: Cohort, name: str, digest: str) -> str:
    try:
        found = hashlib.sha256(cohort.root.join(name).read()).hexdigest()
    except NotFoundError:
        return f"{name} is missing"
    return "" if found == digest else f"{name} is not what was committed"


def check_series(cohort: Cohort, row: SeriesRow, *, quick: bool, repair: bool = False) -> list[str]:
    """Check one series' shards; with ``repair``, delete damaged ones."""
    problems = []
    parts = (("volumes", row.volume, row.volume_checksum), ("labels", row.label, row.label_checksum))
    for folder, digest, checksum in parts:
        if not digest:
            continue
        place = cohort.root.join(folder)
        try:
            if quick:
                found = shard_location(place, digest).checksum() if not place.is_local else ""
                fine = found == checksum if checksum else shard_location(place, digest).exists()
            else:
                fine = content_hash(read_shard(place, digest)) == digest
            what = "" if fine else "was changed"
        except NotFoundError:
            what = "is missing"
        except (InputError, ValueError, TypeError):
            what = "can't be read"
        if what:
            problems.append(f"{folder}/part-{digest}.parquet of series {row.series} {what}")
            if repair:
                shard_location(place, digest).remove()
    return problems
