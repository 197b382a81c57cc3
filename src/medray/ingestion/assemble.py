"""Which files belong together: records of files in, sources of series out, by geometry and identifiers and never by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from medray.ingestion.intake import fingerprint_of
from medray.ingestion.layouts import Layout, named_as, stem
from medray.ingestion.scan import FileRecord, SeriesHeader
from medray.privacy.pseudonym import Naming

__all__ = ["Problem", "SeriesSource", "assemble", "same_plane"]

ORIENTATION_TOLERANCE = 5e-3
"""How far direction cosines of one stack may lie apart; the reader is stricter, and says so."""
FEW_SLICES = 3
"""A part of a mixed series with no more slices than this, beside a larger one, is a localizer."""
PART_LETTERS = 8
"""Letters of what tells parts of a DICOM series apart. Every part has them, for more parts may come, and names must stay."""
FOREIGN_ENTITIES = ("desc", "space", "label", "seg", "res", "atlas", "den")
"""BIDS entities that a derived label map has and its image doesn't."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that goes to quarantine; ``source`` is still the real path."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSource:
    """The files of one series. Its paths may hold identifiers: keep it inside the ingesting process.

    Attributes:
        kind: DICOM objects, or one file.
        files: Paths relative to the source; DICOM slices in the order of their positions.
        stamps: Of files, copies and label maps together.
        subject: Pseudonym.
        study: Pseudonym.
        series: Pseudonym; of a DICOM series with what tells its stack or image from its others.
        origin: Pseudonym of the DICOM series; empty for a file.
        when: Sealed date and time of the study, or what stands for it.
        modality: DICOM modality.
        plane: Of a stack: rows, columns, and six direction cosines; empty for anything else.
        copies: Files that say they are the same object, for each object that has several; the first of them is in ``files``.
        labels: Paths of label maps.
        findings: What a table says of it.
    """

    kind: Literal["dicom", "file"]
    files: tuple[str, ...]
    stamps: tuple[str, ...]
    subject: str
    study: str
    series: str
    origin: str
    when: str
    modality: str
    plane: tuple[float, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()
    labels: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    def key(self, settings: str) -> str:
        """Return what tells this work, on these very files, from any other."""
        return fingerprint_of(settings, self.series, *sorted(self.stamps), "|".join(self.findings))


def assemble(records: Iterable[FileRecord], layout: Layout, naming: Naming) -> tuple[list[SeriesSource], list[Problem]]:
    """Group files into series and give each its label maps.

    DICOM files group by series, size and orientation; an object that is there twice counts once; localizers are split off; an
    image without a place in the patient, or with frames of its own, is a series of its own. A label map belongs to the image
    that the source lists for it, or refers to, or that its name and place tell.

    Args:
        records: Of every file.
        layout: What the source says of itself.
        naming: For what is named by its path.

    Returns:
        Series sorted by subject and name, and problems.
    """
    known = list(records)
    problems = [Problem(record.path, record.reason, record.detail) for record in known if record.kind == "bad"]
    files = [record for record in known if record.kind == "file" or (record.kind == "picture" and layout.findings is not None)]
    maps = [record for record in files if layout.is_label(record.path)]
    mapped = {record.path for record in maps}
    series = [*_dicom(known, problems), *(_file(record, layout, naming) for record in files if record.path not in mapped)]
    owned: dict[str, list[FileRecord]] = defaultdict(list)
    for record in maps:
        _give(owned, record, _owner(record.path, series, layout), problems)
    for record in known:
        if record.header and record.header.kind in {"segmentation", "structures"}:
            _give(owned, record, _referenced(record.header, series), problems)
    complete = [_with_labels(item, owned[item.series], layout) for item in series]
    return sorted(complete, key=lambda item: (item.subject, item.series)), problems


def _give(owned: dict[str, list[FileRecord]], record: FileRecord, owner: str | None, problems: list[Problem]) -> None:
    if owner is None:
        problems.append(Problem(record.path, "label-without-image", "no single image goes with this label map"))
    else:
        owned[owner].append(record)


def _with_labels(item: SeriesSource, maps: Sequence[FileRecord], layout: Layout) -> SeriesSource:
    ordered = sorted(maps, key=lambda record: record.path)
    return replace(
        item,
        labels=tuple(record.path for record in ordered),
        stamps=(*item.stamps, *(record.stamp for record in ordered)),
        findings=layout.findings_of(item.files[0]),
    )


def _dicom(records: Sequence[FileRecord], problems: list[Problem]) -> list[SeriesSource]:
    groups: dict[str, dict[str, list[FileRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.header is None or record.header.kind in {"segmentation", "structures"}:
            continue
        if record.header.kind == "other":
            problems.append(Problem(record.path, "no-pixels", "the object holds no image"))
        else:
            groups[record.header.series][record.header.instance or record.path].append(record)
    return [item for group in groups.values() for item in _parts(list(group.values()), problems)]


def _parts(objects: Sequence[Sequence[FileRecord]], problems: list[Problem]) -> list[SeriesSource]:
    """Split one series into stacks of one size and orientation, and images that stand for themselves."""
    if len({(_header(copy).subject, _header(copy).study) for copies in objects for copy in copies}) > 1:
        detail = f"{len(objects)} objects of one series name several patients or studies"
        problems.append(Problem(objects[0][0].path, "mixed-patients", detail))
        return []
    stacks: list[list[Sequence[FileRecord]]] = []
    alone: list[SeriesSource] = []
    for copies in objects:
        header = _header(copies[0])
        if not (header.position and header.orientation and header.frames == 1):
            alone.append(_series([copies], ()))
            continue
        same = next((stack for stack in stacks if _one_stack(_header(stack[0][0]), header)), None)
        if same is None:
            stacks.append([copies])
        else:
            same.append(copies)
    largest = max((len(stack) for stack in stacks), default=0)
    found: list[SeriesSource] = []
    for stack in stacks:
        if _header(stack[0][0]).localizer or (len(stack) <= FEW_SLICES < largest):
            problems.append(Problem(stack[0][0].path, "localizer", f"{len(stack)} slices that only show where others lie"))
        else:
            found.append(_series(sorted(stack, key=_height), _plane(stack)))
    return [*found, *alone]


def same_plane(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Tell whether two planes (see `SeriesSource`) may be one stack's."""
    turned = np.abs(np.subtract(one[2:], other[2:])).max()
    return one[:2] == other[:2] and bool(turned < ORIENTATION_TOLERANCE)


def _plane(stack: Sequence[Sequence[FileRecord]]) -> tuple[float, ...]:
    """Return what all slices of a stack share: rows, columns, and the direction cosines of the middle one."""
    headers = [_header(copies[0]) for copies in stack]
    cosines = np.median([header.orientation for header in headers], axis=0)
    return (*map(float, headers[0].size), *(cosines + 0.0).tolist())


def _one_stack(first: SeriesHeader, other: SeriesHeader) -> bool:
    planes = ((*header.size, *header.orientation) for header in (first, other))
    return first.localizer == other.localizer and same_plane(*planes)


def _series(stack: Sequence[Sequence[FileRecord]], plane: tuple[float, ...]) -> SeriesSource:
    header = _header(stack[0][0])
    part = fingerprint_of(str(np.round(plane, 3).tolist()) if plane else header.instance or stack[0][0].stamp)
    return SeriesSource(
        kind="dicom",
        files=tuple(copies[0].path for copies in stack),
        copies=tuple(tuple(copy.path for copy in copies) for copies in stack if len(copies) > 1),
        stamps=tuple(copy.stamp for copies in stack for copy in copies),
        subject=header.subject,
        study=header.study,
        series=f"{header.series}-{part[:PART_LETTERS]}",
        origin=header.series,
        plane=plane,
        when=header.when,
        modality=header.modality or "OT",
    )


def _header(record: FileRecord) -> SeriesHeader:
    assert record.header is not None  # noqa: S101 - only DICOM records come here
    return record.header


def _height(copies: Sequence[FileRecord]) -> float:
    header = _header(copies[0])
    return float(np.dot(np.cross(header.orientation[:3], header.orientation[3:]), header.position))


def _file(record: FileRecord, layout: Layout, naming: Naming) -> SeriesSource:
    named = named_as(record.path, layout)
    return SeriesSource(
        kind="file",
        files=(record.path,),
        stamps=(record.stamp,),
        subject=naming.name("subject", named.subject),
        study=naming.name("study", f"{named.subject}\0{named.study}"),
        series=naming.name("series", record.path),
        origin="",
        when=naming.seal(named.study),
        modality=named.modality,
    )


def _referenced(header: SeriesHeader, series: Sequence[SeriesSource]) -> str | None:
    """Return the series that a DICOM segmentation or structure set is about."""
    found = [item for item in series if item.origin and item.origin in header.references]
    largest = max((len(item.files) for item in found), default=0)
    most = [item.series for item in found if len(item.files) == largest]
    return most[0] if len(most) == 1 else None


def _owner(label: str, series: Sequence[SeriesSource], layout: Layout) -> str | None:
    """Find the one series that a label map belongs to; None when there is none or more than one."""
    if label in layout.pairs:
        listed = [item.series for item in series if item.files[0] == layout.pairs[label]]
        return listed[0] if listed else None
    folder, prefix = PurePosixPath(label).parent, stem(label).rpartition("_")[0]
    beside = [item for item in series if item.kind == "file" and PurePosixPath(item.files[0]).parent == folder]
    named = [
        item.series for item in beside if prefix and prefix in (stem(item.files[0]), stem(item.files[0]).rpartition("_")[0])
    ]
    if named:
        return named[0] if len(named) == 1 else None
    for place in (folder, folder.parent):
        below = [item for item in series if PurePosixPath(item.files[0]).is_relative_to(place)]
        if len(below) == 1 and below[0].kind == "dicom":  # a file that is named otherwise is another one
            return below[0].series
    return _by_entities(label, series)


def _by_entities(label: str, series: Sequence[SeriesSource]) -> str | None:
    """Match BIDS names across folders, for label maps below ``derivatives``: the image has all of the label's own entities."""
    wanted = _entities(label)
    if "sub" not in wanted:
        return None
    found = [item.series for item in series if item.kind == "file" and _entities(item.files[0]) == wanted]
    return found[0] if len(found) == 1 else None


def _entities(path: str) -> dict[str, str]:
    pairs = [part.partition("-") for part in stem(path).split("_") if "-" in part]
    return {name: value for name, _, value in pairs if name not in FOREIGN_ENTITIES}
