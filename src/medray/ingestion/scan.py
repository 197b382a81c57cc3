"""Which files belong together: headers in, sources of series out. No pixels are read here and no Ray is used."""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from medray import config
from medray.errors import ConfigError, ImageError, MedrayError
from medray.formats.dicom import DicomHeader, is_dicom, read_dicom_header
from medray.formats.nifti import is_nifti
from medray.imaging.labels import LabelSchema
from medray.storage.location import Location

__all__ = ["FileRecord", "Problem", "SeriesSource", "assemble", "identify", "read_label_schema"]

HEAD_BYTES = 65536
IMAGE_SUFFIXES = (".dcm", ".ima", ".nii", ".nii.gz")
MR_SUFFIXES = {"T1w", "T2w", "PDw", "FLAIR", "T2star", "inplaneT1", "inplaneT2", "bold", "dwi"}

FileKind = Literal["nifti", "dicom", "other", "bad"]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a look at a file's head told.

    Attributes:
        path: Relative to the source.
        kind: ``"other"`` is passed over, ``"bad"`` is quarantined.
        header: For DICOM.
        reason: Why it is bad.
        detail: The same as a sentence.
    """

    path: str
    kind: FileKind
    header: DicomHeader | None = None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that goes to quarantine; ``source`` is still the real path."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSource:
    """The files of one series. Holds identifiers: keep it inside the ingesting process.

    Attributes:
        kind: Format of the files.
        files: Paths relative to the source, in no order that means anything.
        subject: The source's own patient identifier.
        study: The source's own study identifier.
        series: The source's own series identifier.
        time_point: Order of the study among the subject's.
        modality: DICOM modality.
        label: Path of the label map, or empty.
    """

    kind: Literal["nifti", "dicom"]
    files: tuple[str, ...]
    subject: str
    study: str
    series: str
    time_point: int
    modality: str
    label: str


def identify(source: Location, path: str) -> FileRecord:
    """Look at one file's head. Never raises for what is in the file."""
    claims_image = path.lower().endswith(IMAGE_SUFFIXES)
    try:
        head = source.join(path).read(HEAD_BYTES)
        if is_dicom(head):
            return FileRecord(path, "dicom", _dicom_header(source, path, head))
        if is_nifti(head):
            return FileRecord(path, "nifti")
        if claims_image:
            named = "DICOM" if path.lower().endswith((".dcm", ".ima")) else "NIfTI"
            raise ImageError(f"not-{named.lower()}", f"the name says {named} and the content isn't")
    except ImageError as error:
        return FileRecord(path, "bad", reason=error.reason, detail=error.detail)
    except (MedrayError, OSError) as error:
        return FileRecord(path, "bad", reason="unreadable", detail=f"the file can't be opened ({type(error).__name__})")
    return FileRecord(path, "other")


def assemble(records: Iterable[FileRecord], label_glob: str) -> tuple[list[SeriesSource], list[Problem]]:
    """Group files into series and give each its label map.

    DICOM files group by SeriesInstanceUID, and the same object twice counts once. A NIfTI file is a series. A NIfTI
    file whose name matches ``label_glob`` is a label map: it belongs to the one image beside it whose name, whole or up
    to its last underscore, is the label's up to the last underscore, or else to the one series below its own folder, or
    below the folder above.

    Args:
        records: Of every file.
        label_glob: Such as ``"*_dseg.nii*"``; matched against the file's name and its path.

    Returns:
        Series sorted by subject and time, and problems.
    """
    known = list(records)
    problems = [Problem(record.path, record.reason, record.detail) for record in known if record.kind == "bad"]
    labels = [record.path for record in known if record.kind == "nifti" and _matches(record.path, label_glob)]
    images = [record for record in known if record.kind == "nifti" and record.path not in set(labels)]
    series = [*_dicom_series(known, problems), *(_nifti_series(record.path) for record in images)]
    owners: dict[str, str] = {}
    for label in labels:
        owner = _owner(label, series)
        if owner is None or owner in owners:
            problems.append(Problem(label, "label-without-image", "no single image goes with this label map"))
        else:
            owners[owner] = label
    return _ordered([replace(item, label=owners.get(item.series, "")) for item in series]), problems


def read_label_schema(source: Location) -> LabelSchema | None:
    """Read what label values mean from ``dseg.tsv`` at the source's top (BIDS: columns ``index`` and ``name``).

    Raises:
        ConfigError: If the table can't be read.
    """
    file = source.join("dseg.tsv")
    if not file.exists():
        return None
    lines = [line.split("\t") for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    try:
        index, name = lines[0].index("index"), lines[0].index("name")
        names = {line[name].strip(): int(line[index]) for line in lines[1:]}
    except (IndexError, ValueError):
        raise ConfigError(f"{file.path} must be a table with tab-separated columns index (1 to 255) and name") from None
    labels = {key: value for key, value in names.items() if value != 0}
    return config.load(LabelSchema, {"names": labels}, what=file.path)


def _dicom_header(source: Location, path: str, head: bytes) -> DicomHeader:
    """Read the header from the file's head, or from all of it where the head ends too early."""
    whole = len(head) < HEAD_BYTES
    try:
        header = read_dicom_header(head)
        if header.has_pixels or whole:
            return header
    except ImageError:
        if whole:
            raise
    return read_dicom_header(source.join(path).read())


def _dicom_series(records: Sequence[FileRecord], problems: list[Problem]) -> list[SeriesSource]:
    groups: dict[str, dict[str, FileRecord]] = defaultdict(dict)
    headers: dict[str, DicomHeader] = {}
    for record in records:
        if record.header is None:
            continue
        if not record.header.has_pixels:
            problems.append(Problem(record.path, "no-pixels", "the object holds no image"))
            continue
        groups[record.header.series].setdefault(record.header.instance or record.path, record)
        headers.setdefault(record.header.series, record.header)
    return [_dicom_source(headers[series], [*group.values()]) for series, group in groups.items()]


def _dicom_source(header: DicomHeader, group: list[FileRecord]) -> SeriesSource:
    return SeriesSource(
        kind="dicom",
        files=tuple(sorted(record.path for record in group)),
        subject=header.patient or header.study,
        study=f"{header.acquired}\0{header.study}",
        series=header.series,
        time_point=0,
        modality=header.modality or "OT",
        label="",
    )


def _nifti_series(path: str) -> SeriesSource:
    """Take subject and session from BIDS names, or else the folder for the subject and, at the top, the file."""
    parts = PurePosixPath(path)
    entities = dict(re.findall(r"(?:^|[/_])(sub|ses)-([A-Za-z0-9]+)", path))
    folder = parts.parts[0] if len(parts.parts) > 1 else _stem(path)
    suffix = _stem(path).rpartition("_")[2]
    return SeriesSource(
        kind="nifti",
        files=(path,),
        subject=f"sub-{entities['sub']}" if "sub" in entities else folder,
        study=f"ses-{entities['ses']}" if "ses" in entities else str(parts.parent),
        series=path,
        time_point=0,
        modality="MR" if suffix in MR_SUFFIXES else "CT" if suffix.lower() == "ct" else "OT",
        label="",
    )


def _owner(label: str, series: Sequence[SeriesSource]) -> str | None:
    """Find the one series that a label map belongs to; None when there is none or more than one."""
    folder, prefix = PurePosixPath(label).parent, _stem(label).rpartition("_")[0]
    beside = [item.series for item in series if item.kind == "nifti" and PurePosixPath(item.files[0]).parent == folder]
    named = [name for name in beside if prefix and prefix in (_stem(name), _stem(name).rpartition("_")[0])]
    if named:
        return named[0] if len(named) == 1 else None
    for place in (folder, folder.parent):
        below = {item.series for item in series if PurePosixPath(item.files[0]).is_relative_to(place)}
        if len(below) == 1:
            return below.pop()
    return None


def _ordered(series: list[SeriesSource]) -> list[SeriesSource]:
    """Number each subject's studies in the order of their names, which begin with the date where there is one."""
    studies: dict[str, set[str]] = defaultdict(set)
    for item in series:
        studies[item.subject].add(item.study)
    order = {subject: sorted(names) for subject, names in studies.items()}
    numbered = [replace(item, time_point=order[item.subject].index(item.study)) for item in series]
    return sorted(numbered, key=lambda item: (item.subject, item.time_point, item.series))


def _matches(path: str, glob: str) -> bool:
    return fnmatch.fnmatch(path, glob) or fnmatch.fnmatch(PurePosixPath(path).name, glob)


def _stem(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(".gz").removesuffix(".nii")
