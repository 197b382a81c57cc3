"""From what experts made to a new version of the cohort, which plans and fits can use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from medray.annotation.cases import Case, all_cases
from medray.annotation.projects import PRESENCE, Project, Projects
from medray.annotation.store import FINAL, LabelStore, Version
from medray.cohort.cohort import Cohort
from medray.cohort.commit import Contents, base_of, commit_cohort
from medray.cohort.fingerprint import measure
from medray.cohort.manifest import SeriesRow
from medray.cohort.shards import write_shard
from medray.errors import InputError, LabelError, NotFoundError
from medray.imaging.labels import LabelSchema, renumbering
from medray.imaging.volume import Volume
from medray.storage.location import Location

__all__ = ["Which", "export_labels", "results_of"]

Which = Literal["consensus", "approved"]


def export_labels(root: Location, *, tag: str = FINAL, project: str = "", which: Which = "consensus") -> Cohort:
    """Make a version of a cohort in which each image has what experts made of it; images without keep what they have.

    Names that the cohort's schema hasn't are added to it, after those that it has. A project's masks take the place of its own
    names alone: what an image has of others stays where nothing new lies over it. Of a project of findings, its findings take
    the place of those that the image had: ``name`` where it is present, ``name choice`` where it has other choices than that.

    Args:
        root: The cohort.
        tag: Which labels count outside projects: the newest of this tag, whoever's, that was not rejected.
        project: Whose labels count; none for those that are outside of any.
        which: Of a project: what a reviewer decided or the experts agree on, or the newest labels that a reviewer approved.

    Returns:
        The new version, or the current one where nothing is new.

    Raises:
        NotFoundError: If there is no cohort, or no such project.
        LabelError: If names would need more than 255 values.
        InputError: If the project's labels are boxes or points, for which a cohort has no place.
    """
    base = base_of(root)
    if base.cohort is None:
        raise NotFoundError(f"no complete cohort at {root.path}: run medray ingest SRC {root.path}")
    cohort, store = base.cohort, LabelStore(root)
    if project:
        chosen = Projects(root).get(project)
        if chosen.kind in {"boxes", "points"}:
            why = f"project {project} has {chosen.kind}, for which a cohort has no place"
            raise InputError(f"{why}: list them with medray annotate results {root.path} {project}")
        found = results_of(store, chosen, all_cases(root, chosen), which)
    else:
        chosen = None
        found = {series: one for (series, kind), one in store.current().items() if kind == tag and one.live}
    if chosen and chosen.kind == "findings":
        schema = cohort.index.labels
        rows = [_found(row, chosen, found[row.series]) if row.series in found else row for row in cohort.rows]
    else:
        schema = _extended(cohort.index.labels, found.values())
        put = partial(_relabelled, cohort, store, schema=schema, whole=not project)
        rows = [put(row, found[row.series]) if row.series in found else row for row in cohort.rows]
    if tuple(rows) == cohort.rows:
        return cohort
    return commit_cohort(root, Contents(tuple(rows), cohort.quarantine, schema), cohort.index.lineage, base=base)


def results_of(store: LabelStore, project: Project, cases: Sequence[Case], which: Which) -> dict[str, Version]:
    """Return what of a project may be trained on: series to version.

    Args:
        store: Where its labels are.
        project: Its settings.
        cases: All of it.
        which: See `export_labels`.
    """
    if which == "consensus":
        return {case.series: result for case in cases if (result := case.result)}
    return {one.label.series: one for one in store.heads(project=project.name) if one.status == "approved"}


def _extended(schema: LabelSchema | None, versions: Iterable[Version]) -> LabelSchema:
    names: dict[str, int] = dict(schema.names) if schema else {}
    for version in versions:
        for name in version.names:
            if name not in names:
                names[name] = next((value for value in range(1, 257) if value not in names.values()), 256)
    if max(names.values(), default=0) > 255:
        raise LabelError("too-many-labels", "a label map has room for 255 names")
    return LabelSchema(names)


def _found(row: SeriesRow, project: Project, version: Version) -> SeriesRow:
    """Put what a project says of an image into its row."""
    said: Mapping[str, str] = version.said
    ours = {name for name, choices in project.names.items() for name in (name, *(f"{name} {choice}" for choice in choices))}
    kept = [finding for finding in row.findings if finding not in ours]
    graded = {name: choices != PRESENCE for name, choices in project.names.items()}
    new = [
        f"{name} {choice}" if graded[name] else name for name, choice in said.items() if graded[name] or choice != PRESENCE[0]
    ]
    return replace(row, findings=tuple(sorted({*kept, *new})))


def _relabelled(
    cohort: Cohort, store: LabelStore, row: SeriesRow, found: Version, *, schema: LabelSchema, whole: bool
) -> SeriesRow:
    """Put a label map into an image's row: all of it, or beside what the image has of other names."""
    label, image = store.mask(found), cohort.volume(row)
    if label.shape != image.shape:
        raise LabelError(
            "label-grid", f"version {found.number} was drawn before image {row.series} was taken in anew: reject it"
        )
    mask = renumbering(found.names, schema.names)[label.voxels[0]]
    if row.label and not whole:
        old = cohort.mask(row).copy()
        old[np.isin(old, [schema.names[name] for name in found.names])] = 0
        mask = np.where(mask > 0, mask, old)
    shard = write_shard(cohort.root.join("labels"), Volume(mask[np.newaxis], label.affine))
    if shard.digest == row.label:
        return row
    return replace(row, label=shard.digest, label_checksum=shard.checksum, statistics=measure(image, mask, schema))
