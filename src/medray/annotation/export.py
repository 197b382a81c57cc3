"""From what people submitted to a new version of the cohort, which plans and fits can use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from medray.annotation.store import FINAL, LabelStore, Submission
from medray.cohort.cohort import Cohort
from medray.cohort.commit import Contents, base_of, commit_cohort
from medray.cohort.fingerprint import measure
from medray.cohort.manifest import SeriesRow
from medray.cohort.shards import write_shard
from medray.errors import LabelError, NotFoundError
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.storage.location import Location

__all__ = ["export_labels"]


def export_labels(root: Location, *, tag: str = FINAL) -> Cohort:
    """Make a version of a cohort in which each image has the newest label map of a tag; images without one keep theirs.

    Names that the cohort's schema hasn't are added to it, after those that it has.

    Args:
        root: The cohort.
        tag: Which submissions count.

    Returns:
        The new version, or the current one where nothing is new.

    Raises:
        NotFoundError: If there is no cohort.
        LabelError: If names would need more than 255 values.
    """
    base = base_of(root)
    if base.cohort is None:
        raise NotFoundError(f"no complete cohort at {root.path}: run medray ingest SRC {root.path}")
    cohort, store = base.cohort, LabelStore(root)
    submitted = {series: found for (series, kind), found in store.current().items() if kind == tag}
    schema = _extended(cohort.index.labels, submitted.values())
    rows = tuple(
        _relabelled(cohort, store, row, submitted[row.series], schema) if row.series in submitted else row
        for row in cohort.rows
    )
    if rows == cohort.rows:
        return cohort
    return commit_cohort(root, Contents(rows, cohort.quarantine, schema), cohort.index.lineage, base=base)


def _extended(schema: LabelSchema | None, submitted: Iterable[Submission]) -> LabelSchema:
    names: dict[str, int] = dict(schema.names) if schema else {}
    for submission in submitted:
        for name in submission.names:
            if name not in names:
                names[name] = next((value for value in range(1, 257) if value not in names.values()), 256)
    if max(names.values(), default=0) > 255:
        raise LabelError("too-many-labels", "a label map has room for 255 names")
    return LabelSchema(names)


def _relabelled(cohort: Cohort, store: LabelStore, row: SeriesRow, found: Submission, schema: LabelSchema) -> SeriesRow:
    label = store.label(found)
    mask = _translation(found.names, schema)[label.voxels[0]]
    shard = write_shard(cohort.root.join("labels"), Volume(mask[np.newaxis], label.affine))
    if shard.digest == row.label:
        return row
    statistics = measure(cohort.volume(row), mask, schema)
    return replace(row, label=shard.digest, label_checksum=shard.checksum, statistics=statistics)


def _translation(names: Mapping[str, int], schema: LabelSchema) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return a table from a submission's values to the schema's; values without a name are background."""
    table = np.zeros(256, np.uint8)
    for name, value in names.items():
        table[value] = schema.names[name]
    return table
