"""One series from its files into shards: a manifest row, or quarantine rows. A plain function; Ray only calls it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from medray.cohort.cohort import QuarantineRow, SeriesRow
from medray.cohort.fingerprint import measure
from medray.cohort.shards import write_shard
from medray.errors import ImageError, LabelError
from medray.formats.dicom import read_dicom_series
from medray.formats.nifti import read_nifti
from medray.imaging.geometry import closest_lps, same_grid
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.ingestion.scan import Problem, SeriesSource
from medray.privacy.pseudonym import Naming
from medray.storage.location import Location
from medray.types import Mask

__all__ = ["Intake", "Outcome", "quarantine_row", "take_in"]


@dataclass(frozen=True, slots=True)
class Intake:
    """Where series come from and go to.

    Attributes:
        source: The folder that was scanned.
        root: The cohort.
        schema: What label values mean, or None when labels aren't taken in.
        naming: Pseudonyms.
    """

    source: Location
    root: Location
    schema: LabelSchema | None
    naming: Naming


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one series: a row or none, and what was quarantined."""

    row: SeriesRow | None
    quarantine: tuple[QuarantineRow, ...]


def take_in(intake: Intake, item: SeriesSource) -> Outcome:
    """Read a series and its label map, write their shards, and tell what happened. Never raises for bad input."""
    refused: list[QuarantineRow] = []
    try:
        files = [intake.source.join(path).read() for path in item.files]
        volume = _read(item, files)
        mask = None
        if item.label:
            mask = _take_label(intake, item, volume, refused)
        return Outcome(_store(intake, item, volume, mask, _hash(files)), tuple(refused))
    except ImageError as error:
        problem = Problem(_name(item), error.reason, error.detail)
    except Exception as error:  # noqa: BLE001 - one series must not stop a run of ten million; its kind is recorded
        problem = Problem(_name(item), "unreadable", f"the files can't be read ({type(error).__name__})")
    return Outcome(None, (*refused, quarantine_row(intake.naming, problem)))


def quarantine_row(naming: Naming, problem: Problem) -> QuarantineRow:
    """Replace the source's path, which may hold a patient's name, by its pseudonym."""
    return QuarantineRow(source=naming.name("source", problem.source), reason=problem.reason, detail=problem.detail)


def _read(item: SeriesSource, files: list[bytes]) -> Volume:
    volume = read_dicom_series(files) if item.kind == "dicom" else read_nifti(files[0])
    return Volume(volume.voxels, volume.affine, {**volume.meta, "modality": item.modality})


def _take_label(intake: Intake, item: SeriesSource, volume: Volume, refused: list[QuarantineRow]) -> Mask | None:
    """Read the label map onto the image's own grid; a bad one is quarantined and the image stays."""
    try:
        label = read_nifti(intake.source.join(item.label).read())
        if intake.schema is None:
            raise LabelError("no-label-names", "label values have no names: put dseg.tsv (index, name) at the source's top")
        return intake.schema.checked(_onto(volume, label).voxels[0])
    except ImageError as error:
        refused.append(quarantine_row(intake.naming, Problem(item.label, error.reason, error.detail)))
        return None


def _onto(image: Volume, label: Volume) -> Volume:
    """Reorder the label map's axes to the image's.

    Raises:
        LabelError: If no reordering makes the grids one.
    """
    moved = label.reoriented()
    back = closest_lps(image.affine).inverse
    voxels, affine = back.apply(moved.voxels), back.apply_affine(moved.affine, moved.shape)
    if voxels.shape[1:] != image.shape or not same_grid(affine, image.affine, image.shape):
        raise LabelError("label-grid", "the label map and its image lie on different grids: resample one onto the other")
    return Volume(voxels, image.affine)


def _store(intake: Intake, item: SeriesSource, volume: Volume, mask: Mask | None, source_hash: str) -> SeriesRow:
    naming = intake.naming
    series = naming.name("series", item.series)
    label = ""
    if mask is not None:
        label = write_shard(intake.root.join("labels"), Volume(mask[np.newaxis], volume.affine))
    upright = volume.reoriented()
    return SeriesRow(
        subject=naming.name("subject", item.subject),
        study=naming.name("study", f"{item.subject}\0{item.study}"),
        series=series,
        time_point=item.time_point,
        modality=item.modality,
        shape=upright.shape,
        spacing_mm=upright.spacing_mm,
        source_hash=source_hash,
        volume=write_shard(intake.root.join("volumes"), volume),
        label=label,
        statistics=measure(volume, mask, intake.schema),
    )


def _hash(files: list[bytes]) -> str:
    digests = sorted(hashlib.sha256(data).digest() for data in files)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:32]


def _name(item: SeriesSource) -> str:
    return item.files[0]
