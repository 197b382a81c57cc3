"""What grouping needs of one DICOM file: who, which series, where. No pixels are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pydicom import Dataset

from medray.errors import ImageError
from medray.formats.dicom_elements import Elements, walk
from medray.formats.dicom_file import parse, reading

__all__ = [
    "DicomHeader",
    "ObjectKind",
    "SeriesFacts",
    "header_of",
    "read_dicom_file_header",
    "read_dicom_header",
    "series_facts",
]

ObjectKind = Literal["image", "segmentation", "structures", "other"]

PATIENT, ISSUER, STUDY, SERIES, INSTANCE = 0x00100020, 0x00100021, 0x0020000D, 0x0020000E, 0x00080018
SOP_CLASS, MODALITY, IMAGE_TYPE = 0x00080016, 0x00080060, 0x00080008
STUDY_DATE, STUDY_TIME = 0x00080020, 0x00080030
ROWS, COLUMNS, FRAMES, POSITION, ORIENTATION = 0x00280010, 0x00280011, 0x00280008, 0x00200032, 0x00200037
WANTED = [
    PATIENT, ISSUER, STUDY, SERIES, INSTANCE, SOP_CLASS, MODALITY, IMAGE_TYPE, STUDY_DATE, STUDY_TIME,
    ROWS, COLUMNS, FRAMES, POSITION, ORIENTATION,
]  # fmt: skip
MODALITIES = frozenset(
    """
    ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS
    KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE
    RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL
    XC
    """.split()  # noqa: SIM905
)
"""PS3.16 CID 29; what else a device put there may be a name."""
BODY_PART = 0x00180015
DESCRIPTIONS = (0x0008103E, 0x00181030, 0x00081030)
SEGMENTATION, STRUCTURES = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomHeader:
    """The attributes that group files into series. Holds identifiers: keep it inside the ingesting process.

    Attributes:
        patient: PatientID and its issuer; empty where the file has none.
        study: StudyInstanceUID.
        series: SeriesInstanceUID; the object's own UID where it has none.
        instance: SOPInstanceUID.
        sop_class: SOPClassUID.
        modality: Modality, such as ``"MR"``; empty where it is none of the standard's.
        acquired: StudyDate and StudyTime as digits, for ordering time points.
        kind: Image, segmentation, structure set, or something without pixels.
        size: Rows and columns.
        position: ImagePositionPatient, or empty.
        orientation: ImageOrientationPatient, or empty.
        localizer: Whether ImageType says so.
        frames: NumberOfFrames.
        references: SeriesInstanceUIDs that a segmentation or structure set is about.
    """

    patient: str
    study: str
    series: str
    instance: str
    sop_class: str
    modality: str
    acquired: str
    kind: ObjectKind
    size: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    localizer: bool
    frames: int
    references: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Who is shown: the patient, or where none is named, whoever the study is of."""
        return self.patient or self.study


class _Lookup(Protocol):
    def text(self, tag: int) -> str: ...

    def numbers(self, tag: int) -> tuple[float, ...]: ...

    def integer(self, tag: int, default: int = 0) -> int: ...


@reading()
def read_dicom_header(data: bytes) -> DicomHeader | None:
    """Read one file's header.

    Args:
        data: The file, or its first part.

    Returns:
        None when the data ends before all that is needed was seen; then hand in the whole file.

    Raises:
        ImageError: If it isn't DICOM, or belongs to no series.
    """
    item = walk(data)
    if item is not None and not _plain_identity(item):
        return None
    if item is not None and item.pixels is None and item.text(SOP_CLASS) in {SEGMENTATION, STRUCTURES}:
        return None
    if item is not None and item.pixels is not None:
        return _header(item, _references(data, item.text(SOP_CLASS)))
    return None


@reading()
def read_dicom_file_header(data: bytes) -> DicomHeader:
    """Read the header of a file that is whole, whatever its encoding.

    Raises:
        ImageError: If it isn't DICOM, or belongs to no series.
    """
    item = walk(data)
    if item is not None and SERIES in item.places and _plain_identity(item):
        return _header(item, _references(data, item.text(SOP_CLASS)))
    return header_of(parse(data, stop_before_pixels=True, specific_tags=WANTED))


@reading()
def header_of(dataset: Dataset) -> DicomHeader:
    """Return the header of a data set that was parsed already; its references are left out."""
    return _header(_Parsed(dataset), ())


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What tells what a series shows, in its makers' words. Free text: may name a patient.

    Attributes:
        modality: Modality.
        body_part: BodyPartExamined.
        description: SeriesDescription, ProtocolName and StudyDescription, a line each.
    """

    modality: str
    body_part: str
    description: str


@reading()
def series_facts(data: bytes) -> SeriesFacts:
    """Read what a file says of its series.

    Raises:
        ImageError: If it isn't DICOM.
    """
    item = _Parsed(parse(data, stop_before_pixels=True, specific_tags=[MODALITY, BODY_PART, *DESCRIPTIONS]))
    return SeriesFacts(item.text(MODALITY), item.text(BODY_PART), "\n".join(item.text(tag) for tag in DESCRIPTIONS))


def _plain_identity(item: Elements) -> bool:
    """Tell whether the patient's identifiers are plain ASCII: other character sets (PS3.5 6.1) are pydicom's to decode."""
    return item.text(PATIENT).isascii() and item.text(ISSUER).isascii() and "\x1b" not in item.text(PATIENT)


@dataclass(frozen=True, slots=True)
class _Parsed:
    """pydicom's data set behind the same three questions."""

    dataset: Dataset

    def text(self, tag: int) -> str:
        try:
            value = self.dataset[tag].value
        except Exception:  # noqa: BLE001 - missing or damaged: pydicom decodes a value when it is asked for
            return ""
        if value is None:
            return ""
        return (
            "\\".join(str(part) for part in value)
            if isinstance(value, list | tuple) or hasattr(value, "append")
            else str(value)
        )

    def numbers(self, tag: int) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in self.text(tag).split("\\") if part)
        except ValueError:
            return ()

    def integer(self, tag: int, default: int = 0) -> int:
        found = self.numbers(tag)
        return int(found[0]) if found else default


def _header(item: _Lookup, references: tuple[str, ...]) -> DicomHeader:
    series = item.text(SERIES) or item.text(INSTANCE)
    if not series:
        raise ImageError("no-series", "the object has neither a SeriesInstanceUID nor a UID of its own")
    size = (item.integer(ROWS), item.integer(COLUMNS))
    issuer = item.text(ISSUER)
    patient = item.text(PATIENT)
    frames = item.numbers(FRAMES)
    position, orientation = item.numbers(POSITION), item.numbers(ORIENTATION)
    return DicomHeader(
        patient=f"{issuer}\0{patient}" if issuer and patient else patient,
        study=item.text(STUDY),
        series=series,
        instance=item.text(INSTANCE),
        sop_class=item.text(SOP_CLASS),
        modality=item.text(MODALITY) if item.text(MODALITY) in MODALITIES else "",
        acquired=f"{item.text(STUDY_DATE)}{item.text(STUDY_TIME)}",
        kind=_kind(item.text(SOP_CLASS), size),
        size=size,
        position=position if len(position) == 3 else (),
        orientation=orientation if len(orientation) == 6 else (),
        localizer="LOCALIZER" in item.text(IMAGE_TYPE).upper(),
        frames=int(frames[0]) if len(frames) == 1 else 1,
        references=references,
    )


def _kind(sop_class: str, size: tuple[int, int]) -> ObjectKind:
    if sop_class == SEGMENTATION:
        return "segmentation"
    if sop_class == STRUCTURES:
        return "structures"
    return "image" if min(size) > 0 else "other"


def _references(data: bytes, sop_class: str) -> tuple[str, ...]:
    """Return the series that a segmentation (PS3.3 C.12.4) or a structure set (C.8.8.5) refers to."""
    if sop_class not in {SEGMENTATION, STRUCTURES}:
        return ()
    dataset = parse(data, stop_before_pixels=True)
    if sop_class == SEGMENTATION:
        found = dataset.get("ReferencedSeriesSequence") or []
    else:
        found = [
            series
            for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []
            for study in frame.get("RTReferencedStudySequence") or []
            for series in study.get("RTReferencedSeriesSequence") or []
        ]
    return tuple(dict.fromkeys(str(item.get("SeriesInstanceUID", "")) for item in found))
