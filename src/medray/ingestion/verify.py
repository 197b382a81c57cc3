"""`verify`: read a cohort again, hash everything, and name what was damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort, content_id, open_cohort
from medray.cohort.manifest import SeriesRow
from medray.cohort.shards import content_hash, read_shard, shard_location
from medray.engine import stream
from medray.errors import InputError, NotFoundError

__all__ = ["check_series", "verify"]


def verify(
    root: str | Path,
    *,
    version: str | None = None,
    quick: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[str]:
    """Check a version of a cohort.

    Args:
        root: The cohort's folder.
        version: Its id; the current one by default.
        quick: Compare the object store's own checksums instead of reading the voxels; on a disk, only that files are there.
        on_progress: Called with ``("verify", done, total)``.

    Returns:
        One line for each thing that is wrong; empty when the cohort is whole.

    Raises:
        NotFoundError: If there is no such cohort.
        StorageError: If the store can't be reached.
    """
    cohort = open_cohort(root, version=version)
    problems = []
    if content_id(cohort.rows, cohort.quarantine, cohort.index.labels) != cohort.index.id:
        problems.append(f"manifest or quarantine table of {cohort.index.id} is not what was committed")
    checks = stream(cohort.rows, lambda row: check_series(cohort, row, quick=quick))
    for done, found in enumerate(checks, start=1):
        problems += found
        on_progress("verify", done, len(cohort.rows))
    outcome = "ok" if not problems else "damaged"
    open_trail().record(
        [Event("cohort.verify", cohort.index.id, outcome, f"{len(cohort.rows)} series, {len(problems)} problems")]
    )
    return sorted(problems)


def check_series(cohort: Cohort, row: SeriesRow, *, quick: bool) -> list[str]:
    """Check one series' shards."""
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
    return problems
