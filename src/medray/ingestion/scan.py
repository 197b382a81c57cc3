"""A look at each file's head: what it is and which series it belongs to. No pixels are read here and no Ray is used.

What a scan tells is de-identified before it leaves the worker that read the file: records hold pseudonyms, so that they can be
kept beside the cohort and the next run needs no second look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from isal import igzip
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from medray import config
from medray.errors import ImageError, MedrayError, NotFoundError, StorageError
from medray.formats.dicom import is_dicom
from medray.formats.dicom_header import DicomHeader, ObjectKind, read_dicom_file_header, read_dicom_header
from medray.formats.image import FILE_FORMATS, sniff
from medray.ingestion.intake import Intake, fingerprint_of
from medray.ingestion.ledger import PASSING
from medray.privacy.pseudonym import Naming
from medray.storage.location import Entry, Location

__all__ = ["FileRecord", "SeriesHeader", "chunks", "header_at", "identify", "scan_chunk"]

HEAD_BYTES = 32768
FEWEST, MOST = 64, 256
"""Files in a chunk, unless a folder ends it."""
IMAGE_SUFFIXES = (".dcm", ".ima", ".nii", ".nii.gz", ".nrrd", ".mha", ".img", ".hdr", ".nhdr", ".mhd", ".zip")

FileKind = Literal["file", "picture", "dicom", "other", "bad"]


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class SeriesHeader:
    """A DICOM header with pseudonyms for identifiers: see `DicomHeader` for the rest.

    Attributes:
        subject: Pseudonym of the patient.
        study: Pseudonym of the study.
        series: Pseudonym of the series.
        instance: Pseudonym of the object.
        when: Date and time of the study, sealed.
    """

    subject: str
    study: str
    series: str
    instance: str
    when: str
    modality: str
    kind: ObjectKind
    size: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    localizer: bool
    frames: int
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class FileRecord:
    """What a look at a file's head told.

    Attributes:
        path: Relative to the source; left out where a record is kept.
        kind: ``"file"`` keeps one image, ``"picture"`` is PNG or JPEG, ``"other"`` is passed over, ``"bad"`` is quarantined.
        stamp: Changes when the file does.
        header: For DICOM.
        reason: Why it is bad.
        detail: The same as a sentence.
    """

    path: str
    kind: FileKind
    stamp: str
    header: SeriesHeader | None = None
    reason: str = ""
    detail: str = ""


_records = TypeAdapter(list[FileRecord])


def chunks(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Cut a listing into tasks, at places that follow from the names: a new file changes its own chunk alone."""
    made: list[list[Entry]] = [[]]
    folder = None
    for entry in entries:
        own = entry.name.rpartition("/")[0]
        current = made[-1]
        ended = own != folder and len(current) >= FEWEST and int(fingerprint_of(own)[:2], 16) < 64
        if ended or len(current) >= MOST:
            made.append([])
        made[-1].append(entry)
        folder = own
    return [chunk for chunk in made if chunk]


def scan_chunk(intake: Intake, chunk: Sequence[Entry]) -> list[FileRecord]:
    """Identify a chunk's files, or find what an earlier run noted of the same files.

    Raises:
        StorageError: If the source or the cohort can't be reached.
    """
    stamps = [intake.stamp(entry) for entry in chunk]
    kept = intake.root.join("ledger", f"scan-{fingerprint_of(intake.settings, *stamps)}.json.gz")
    try:
        records = _records.validate_json(igzip.decompress(kept.read()))
        return [replace(record, path=entry.name) for record, entry in zip(records, chunk, strict=True)]
    except (NotFoundError, ValueError, OSError, EOFError):
        records = [identify(intake, entry) for entry in chunk]
    if any(record.reason in PASSING for record in records):
        return records  # what couldn't be opened is looked at again by the next run
    nameless = [replace(record, path="") for record in records]
    kept.write(bytes(igzip.compress(_records.dump_json(nameless), compresslevel=1, mtime=0)))
    return records


def identify(intake: Intake, entry: Entry) -> FileRecord:
    """Look at one file's head. Never raises for what is in the file.

    Raises:
        StorageError: If the source can't be reached.
    """
    stamp = intake.stamp(entry)
    try:
        place = intake.source.join(entry.name)
        head = place.read(HEAD_BYTES)
        if is_dicom(head):
            return FileRecord(
                path=entry.name, kind="dicom", stamp=stamp, header=_without_identity(header_at(place, head), intake.naming)
            )
        kind = sniff(head)
        if kind in FILE_FORMATS:
            return FileRecord(path=entry.name, kind="picture" if kind == "picture" else "file", stamp=stamp)
        if kind == "zip":
            raise ImageError("zip", "a zip isn't looked into: unpack it first")
        if entry.name.lower().endswith(IMAGE_SUFFIXES):
            raise ImageError("not-an-image", "the name says that it is an image and the content isn't one that is known")
    except ImageError as error:
        reason, detail = error.reason, error.detail
    except StorageError as error:
        intake.require_source(error)
        reason, detail = "forbidden", "the file may not be read"
    except MedrayError as error:
        reason, detail = "unreadable", f"the file can't be opened ({type(error).__name__})"
    else:
        return FileRecord(path=entry.name, kind="other", stamp=stamp)
    return FileRecord(path=entry.name, kind="bad", stamp=stamp, reason=reason, detail=detail)


def header_at(place: Location, head: bytes) -> DicomHeader:
    """Read a header from a DICOM file's head, or from all of the file where the head ends too early.

    Raises:
        ImageError: If it isn't DICOM, or belongs to no series.
        StorageError: If the source can't be reached.
    """
    return read_dicom_header(head) or read_dicom_file_header(place.read())


def _without_identity(header: DicomHeader, naming: Naming) -> SeriesHeader:
    return SeriesHeader(
        subject=naming.name("subject", header.subject),
        study=naming.name("study", header.study),
        series=naming.name("series", header.series),
        instance=naming.name("instance", header.instance) if header.instance else "",
        when=naming.seal(header.acquired),
        modality=header.modality,
        kind=header.kind,
        size=header.size,
        position=header.position,
        orientation=header.orientation,
        localizer=header.localizer,
        frames=header.frames,
        references=tuple(naming.name("series", reference) for reference in header.references),
    )
