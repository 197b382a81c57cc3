"""One series from its files into shards: a manifest row, or quarantine rows. A plain function; Ray only calls it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from medray.cohort.fingerprint import measure
from medray.cohort.manifest import QuarantineRow, SeriesRow
from medray.cohort.shards import write_shard
from medray.errors import ImageError, LabelError, StorageError
from medray.formats.dicom import DicomSeries, is_dicom, read_dicom_series
from medray.formats.dicom_copies import choose_copy
from medray.formats.dicom_header import header_of
from medray.formats.dicom_labels import read_dicom_labels
from medray.formats.dicom_suv import suv_factor
from medray.formats.image import read_file, sniff
from medray.imaging.labels import LabelSchema, onto
from medray.imaging.volume import Volume
from medray.ingestion.assemble import Problem, SeriesSource
from medray.ingestion.intake import Intake
from medray.ingestion.ledger import Outcome, note, recall
from medray.privacy.deidentify import deidentify
from medray.privacy.faces import without_face
from medray.privacy.pixels import at_risk, redacted
from medray.privacy.profile import Profile
from medray.privacy.pseudonym import Naming
from medray.storage.location import Location
from medray.types import Mask

__all__ = ["clean_series", "crashed", "label_map", "quarantine_row", "take_in"]


FACED = ("MR", "CT", "PT", "OT")
"""Modalities that show the surface of a head; OT is what doesn't say."""


def take_in(intake: Intake, item: SeriesSource) -> Outcome:
    """Read a series and its label maps, write their shards, and note what happened. Never raises for bad input.

    Raises:
        StorageError: If the source or the cohort can't be reached: nothing is wrong with the series then.
    """
    key, refused = item.key(intake.settings), list[QuarantineRow]()
    known = recall(intake.root, key)
    if known is not None:  # a worker that died in the middle of several had done this one
        return known

    def refuse(source: str, reason: str, detail: str) -> None:
        refused.append(quarantine_row(intake, Problem(source, reason, detail), key))

    row = None
    try:
        row = _read_and_store(intake, item, key, refuse)
    except ImageError as error:
        refuse(item.files[0], error.reason, error.detail)
    except StorageError as error:
        intake.require_source(error)
        refuse(item.files[0], "forbidden", "a file may not be read")
    except Exception as error:  # noqa: BLE001 - one series must not stop a run of ten million; its kind is recorded
        refuse(item.files[0], "unreadable", f"the files can't be read ({type(error).__name__})")
    outcome = Outcome(row, tuple(refused))
    note(intake.root, key, outcome)
    return outcome


def crashed(intake: Intake, item: SeriesSource) -> Outcome:
    """Note a series over which workers died: it is quarantined, so that it can't stop this run or the next one."""
    key = item.key(intake.settings)
    detail = (
        "reading it ended its process each time: it is damaged in a way that a decoder can't survive, or too large for a worker"
    )
    outcome = Outcome(None, (quarantine_row(intake, Problem(item.files[0], "crashed-reader", detail), key),))
    note(intake.root, key, outcome)
    return outcome


def quarantine_row(intake: Intake, problem: Problem, key: str = "") -> QuarantineRow:
    """Replace the source's path, which may hold a patient's name, by its pseudonym."""
    source = intake.naming.name("source", problem.source)
    return QuarantineRow(source=source, reason=problem.reason, detail=problem.detail, intake=key)


class _Reading:
    """Reads a series' files and hashes them on the way."""

    def __init__(self, source: Location) -> None:
        self.source = source
        self.digests: dict[str, bytes] = {}

    def of(self, name: str) -> Callable[[], bytes]:
        def read() -> bytes:
            data = self.source.join(name).read()
            if name not in self.digests:
                self.digests[name] = hashlib.sha256(data).digest()
            return data

        return read

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"".join(sorted(self.digests.values()))).hexdigest()[:32]


def _read_and_store(intake: Intake, item: SeriesSource, key: str, refuse: Callable[[str, str, str], None]) -> SeriesRow:
    reading = _Reading(intake.source)
    files = _one_of_each(intake, item, refuse)
    if item.kind == "dicom":
        volume = clean_series(intake.profile, intake.naming, read_dicom_series([reading.of(name) for name in files]))
    else:
        data = reading.of(item.files[0])()
        volume = read_file(data)
        if sniff(data) == "picture" and not intake.profile.identified:  # nothing says what it shows
            voxels = redacted(volume.voxels, None, samples=int(volume.meta.get("samples", "1")))
            volume = Volume(voxels, volume.affine, volume.meta)
    volume = Volume(volume.voxels, volume.affine, {**volume.meta, "modality": item.modality})
    if "faces" in intake.profile.options and item.modality in FACED and min(volume.shape) > 1:
        volume = without_face(volume)
    mask = _labels(intake, item, volume, refuse)
    upright = volume.reoriented()
    stored = write_shard(intake.root.join("volumes"), volume)
    label = write_shard(intake.root.join("labels"), Volume(mask[np.newaxis], volume.affine)) if mask is not None else ("", "")
    return SeriesRow(
        subject=item.subject,
        study=item.study,
        series=item.series,
        time_point=0,
        when=item.when,
        modality=item.modality,
        plane=item.plane,
        channels=volume.voxels.shape[0],
        shape=upright.shape,
        spacing_mm=upright.spacing_mm,
        source_hash=reading.digest,
        intake=key,
        instances=len(item.files),
        volume=stored.digest,
        volume_checksum=stored.checksum,
        label=label[0],
        label_checksum=label[1],
        findings=item.findings,
        statistics=measure(volume, mask, intake.labels),
    )


def _one_of_each(intake: Intake, item: SeriesSource, refuse: Callable[[str, str, str], None]) -> tuple[str, ...]:
    """Return the files to read: of each object that is there more than once, the first one that can be read.

    Raises:
        ImageError: If two that can be read show different things.
    """
    instead: dict[str, str] = {}
    for copies in item.copies:
        chosen, damaged = choose_copy({path: intake.source.join(path).read() for path in copies})
        instead[copies[0]] = chosen
        for path, error in damaged.items():
            refuse(path, error.reason, error.detail)
    return tuple(instead.get(path, path) for path in item.files)


def clean_series(profile: Profile, naming: Naming, series: DicomSeries) -> Volume:
    """De-identify a series' header and pixels, and keep the header with the volume as DICOM JSON (PS3.18 F.2).

    Raises:
        ImageError: If nobody can vouch for its pixels, or for an attribute.
    """
    volume, meta = series.volume, dict(series.volume.meta)
    voxels = volume.voxels
    risky = not profile.identified and (series.annotated or at_risk(series.header))
    if risky:
        voxels = redacted(voxels, series.header, samples=int(meta.get("samples", "1")))
    identity = header_of(series.header)
    made = deidentify(series.header, profile, naming, patient=identity.subject, clean_pixels=risky)
    keep_uids = profile.identified or "uids" in profile.options
    instances = [uid if keep_uids else naming.uid(uid) for uid in series.instances]
    made.dataset.Modality = identity.modality or "OT"
    if not made.dataset.get("BodyPartExamined"):  # it repeated a name
        meta.pop("body_part", None)
    meta["dicom"] = json.dumps(_json(made.dataset), sort_keys=True)
    meta["instances"] = "\\".join(instances)
    factor = suv_factor(series.header)
    if factor is not None:
        meta["suv_bw_factor"] = f"{factor:.9g}"
    return Volume(voxels, volume.affine, meta)


def _json(dataset: Any) -> dict[str, Any]:
    """Return a header as DICOM JSON, without binary values and what can't be written as JSON."""
    plain: dict[str, Any] = dataset.to_json_dict(
        bulk_data_threshold=0, bulk_data_element_handler=lambda _: "", suppress_invalid_tags=True
    )
    return _without_bulk(plain)


def _without_bulk(plain: dict[str, Any]) -> dict[str, Any]:
    kept = {tag: element for tag, element in plain.items() if "BulkDataURI" not in element}
    return {
        tag: {**element, "Value": [_without_bulk(item) for item in element.get("Value", [])]}
        if element["vr"] == "SQ"
        else element
        for tag, element in kept.items()
    }


def _labels(intake: Intake, item: SeriesSource, volume: Volume, refuse: Callable[[str, str, str], None]) -> Mask | None:
    """Read label maps onto the image's own grid; a bad one is quarantined and the image stays."""
    merged: Mask | None = None
    for path in item.labels:
        try:
            mask = _label(intake, path, volume)
            if merged is not None and ((merged != 0) & (mask != 0) & (merged != mask)).any():
                raise LabelError("overlapping-labels", "another label map of the image claims the same voxels")
            merged = mask if merged is None else np.where(merged == 0, mask, merged).astype(np.uint8)
        except ImageError as error:
            refuse(path, error.reason, error.detail)
    return merged


def _label(intake: Intake, path: str, volume: Volume) -> Mask:
    if intake.labels is None:
        raise LabelError("no-label-names", "label values have no names: put dseg.tsv (index, name) at the source's top")
    return label_map(intake.source.join(path).read(), volume, intake.labels)


def label_map(data: bytes, image: Volume, labels: LabelSchema) -> Mask:
    """Read a label map onto an image's grid.

    Args:
        data: A file of any known format, DICOM segmentations and structure sets included.
        image: What it is about.
        labels: What its values mean.

    Raises:
        LabelError: If it has several channels, another grid, or values without a name.
        ImageError: If it can't be read.
    """
    if is_dicom(data):
        return read_dicom_labels(data, image, labels.names)
    label = read_file(data)
    if label.voxels.shape[0] != 1:
        raise LabelError("label-channels", "a label map has one channel: one value a voxel")
    return labels.checked(onto(image, label).voxels[0])
