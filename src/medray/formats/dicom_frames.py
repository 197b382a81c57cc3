"""The frames of one DICOM object: where each lies, how its stored values become the modality's, and its pixels.

Sources: PS3.3 C.7.6.2 (Image Plane), C.7.6.3 (Image Pixel), C.7.6.16 (Multi-frame Functional Groups), C.8.8.3.2 (grid frame
offsets of RT Dose), C.11.1 (Modality LUT); PS3.5 8.1.1 and 8.2 (pixel encoding).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID

from medray.errors import ImageError, MedrayError
from medray.formats.codestream import frame_size
from medray.types import Voxels

__all__ = ["ITK_SYNTAXES", "Frame", "frames_of", "numbers", "parse", "reading", "starts_bare", "stored_pixels", "text"]

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # see `silence`

DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_BYTES = 4 << 30
"""Of one object's decoded pixels."""
FREE_BYTES = 64 << 20
MAX_RATIO = 2000
"""Most that compressed pixels may grow, above the first `FREE_BYTES`: more is a header that lies."""
ITK_SYNTAXES = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
"""JPEG extended (12 bits) and lossless."""
RLE = "1.2.840.10008.1.2.5"
PIXEL_KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PLANE_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One 2-D frame.

    Attributes:
        position: ImagePositionPatient, LPS mm, of the first pixel's centre; None for what has no place in the patient.
        orientation: ``(6,)``: directions of a row and of a column.
        spacing: mm between rows and between columns.
        thickness: mm to the next slice as the header says; 0 where it doesn't.
        slope: Stored value times this …
        intercept: … plus this is the modality's value.
        order: Tells apart frames at one position: echo, b-value, time and such, in that order.
    """

    position: NDArray[np.float64] | None
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float
    slope: float
    intercept: float
    order: tuple[float, ...]


@contextmanager
def silence() -> Iterator[None]:
    """Keep pydicom quiet: its warnings repeat the values that they are about, and those may be a patient's."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reading() -> Iterator[None]:
    """Read in silence.

    Raises:
        ImageError: For whatever pydicom stumbles over: it decodes a value when it is asked for, so that damage shows anywhere.
    """
    with silence():
        try:
            yield
        except MedrayError:
            raise
        except Exception as error:  # noqa: BLE001
            raise ImageError("unreadable-dicom", f"the object is damaged ({type(error).__name__})") from None


def starts_bare(data: bytes) -> bool:
    """Tell whether bytes begin as a data set without a preamble: an element of group 2 or 8, in little endian."""
    group, element, length = data[:2], int.from_bytes(data[2:4], "little"), int.from_bytes(data[4:8], "little")
    explicit = data[4:6] in {b"UL", b"CS", b"UI", b"OB", b"DA", b"SH"}
    return (
        group in {b"\x02\x00", b"\x08\x00"} and element <= 0x0020 and (explicit or (group == b"\x08\x00" and 0 < length <= 64))
    )


def parse(data: bytes, **options: Any) -> Dataset:
    """Parse one file.

    Raises:
        ImageError: If it isn't DICOM, is damaged, or inflates to more than it may.
    """
    try:
        with silence():
            dataset = dcmread(BytesIO(_inflated(data)), force=starts_bare(data), **options)
            dataset.get("Modality")
            return dataset
    except InvalidDicomError:
        raise ImageError("not-dicom", "the file has no DICOM preamble; it isn't a DICOM file") from None
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises many kinds on damaged files
        raise ImageError("unreadable-dicom", f"the file is damaged ({type(error).__name__})") from None


def frames_of(dataset: Dataset) -> list[Frame]:
    """Return an object's frames in their stored order.

    Raises:
        ImageError: If its geometry or its rescaling can't be understood.
    """
    count = frame_count(dataset)
    if "PerFrameFunctionalGroupsSequence" in dataset:
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        groups = dataset.PerFrameFunctionalGroupsSequence
        if len(groups) != count:
            raise ImageError("bad-frames", f"{count} frames are declared and {len(groups)} described")
        return [_grouped_frame(dataset, shared, group, number) for number, group in enumerate(groups)]
    if count > 1 and "GridFrameOffsetVector" in dataset and "ImagePositionPatient" in dataset:
        return _offset_frames(dataset, count)
    frame = _plain_frame(dataset)
    if count > 1 and frame.position is not None:
        raise ImageError("no-geometry", f"{count} frames have one position between them")
    return [frame] * count


def frame_count(dataset: Dataset) -> int:
    """Return NumberOfFrames, 1 where it is missing."""
    try:
        return max(1, int(dataset.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        raise ImageError("bad-frames", "NumberOfFrames isn't a number") from None


def stored_pixels(dataset: Dataset) -> Voxels:
    """Decode an object's pixels, before any rescaling.

    Returns:
        ``(F, J, I, S)``: frames, rows, columns, samples; colour is RGB. MONOCHROME1 is turned round, so that more is brighter.

    Raises:
        ImageError: If there are none, they can't be decoded, or the header declares more than the data can hold.
    """
    frames, rows, columns, samples = _declared(dataset)
    try:
        with silence():
            stored = _decoded(dataset, frames)
            if "PALETTE" in text(dataset, "PhotometricInterpretation"):
                stored = apply_color_lut(stored, dataset)
                samples = stored.shape[-1]
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds on damaged pixels
        raise ImageError("unreadable-pixels", f"the pixels can't be decoded ({type(error).__name__})") from None
    if stored.size != frames * rows * columns * samples:
        raise ImageError("unreadable-pixels", "the decoded pixels aren't as many as the header says")
    shaped = stored.reshape(frames, rows, columns, samples)
    if "ModalityLUTSequence" in dataset:
        return np.asarray(apply_modality_lut(shaped, dataset))
    return _upright(_stored_bits(shaped, dataset), dataset)


def numbers(item: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    """Return a multi-valued attribute as floats.

    Raises:
        ImageError: If it is missing or isn't ``count`` numbers.
    """
    try:
        values = np.array([float(value) for value in item[keyword].value], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        raise ImageError("no-geometry", f"{keyword} is missing or isn't {count} numbers")
    return values


def text(item: Dataset, keyword: str) -> str:
    """Return an attribute as text; empty where it is missing or can't be read."""
    try:
        value = item.get(keyword)
    except Exception:  # noqa: BLE001 - a damaged value is read when it is asked for
        return ""
    return "" if value is None else str(value).strip()


def _inflated(data: bytes) -> bytes:
    """Inflate a deflated data set here, where growth is bounded (PS3.5 A.5); anything else stays as it is."""
    if DEFLATED.encode() not in data[:1024]:
        return data
    meta = dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=[]).file_meta
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return data
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    body = isal_zlib.decompressobj(wbits=-15).decompress(data[start:], MAX_BYTES)
    if len(body) >= MAX_BYTES:
        raise ImageError("too-large", f"the data set inflates to more than {MAX_BYTES >> 30} GiB")
    meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    head = BytesIO()
    Dataset()
    head.write(b"\0" * 128 + b"DICM")
    from pydicom.filewriter import write_file_meta_info  # noqa: PLC0415 - only deflated files need it

    write_file_meta_info(head, meta)
    return head.getvalue() + bytes(body)


def _declared(dataset: Dataset) -> tuple[int, int, int, int]:
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.BitsAllocated)
    except (AttributeError, TypeError, ValueError):
        raise ImageError("no-pixels", "the object has no rows, columns or bits") from None
    frames = frame_count(dataset)
    pixels = next(
        (dataset.get(name) for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in dataset), None
    )
    if min(rows, columns, samples) < 1 or not pixels:
        raise ImageError("no-pixels", "the object holds no pixels")
    size = frames * rows * columns * samples * bits // 8
    if size > MAX_BYTES:
        raise ImageError("too-large", f"{frames} frames of {columns} x {rows} are more than {MAX_BYTES >> 30} GiB of pixels")
    syntax = UID(text(dataset.file_meta, "TransferSyntaxUID") or "1.2.840.10008.1.2")
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise ImageError("unknown-syntax", "the transfer syntax is none of the standard's")
    if not syntax.is_compressed and len(pixels) < size and "422" not in text(dataset, "PhotometricInterpretation"):
        raise ImageError("truncated", f"the header promises {size} bytes of pixels; {len(pixels)} are there")
    if syntax.is_compressed and size > max(FREE_BYTES, MAX_RATIO * len(pixels)):
        raise ImageError("too-large", f"{len(pixels)} compressed bytes can't hold {frames} frames of {columns} x {rows}")
    return frames, rows, columns, samples


def _decoded(dataset: Dataset, frames: int) -> Voxels:
    if dataset.BitsAllocated == 12:
        return _packed12(dataset, frames)
    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    _require_honest_frames(dataset, frames, UID(syntax))
    if syntax in ITK_SYNTAXES:
        return _decoded_by_itk(dataset)
    plugin = "pydicom" if syntax == RLE else ""  # its own decoder raises on damaged data, where a faster one ends the process
    return np.asarray(pixel_array(dataset, raw=False, decoding_plugin=plugin))


def _require_honest_frames(dataset: Dataset, frames: int, syntax: UID) -> None:
    """Refuse compressed frames of another size than the header's: a decoder would allocate for theirs."""
    if not syntax.is_compressed or syntax in {RLE, DEFLATED}:
        return
    for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
        size = frame_size(frame)
        if size != (int(dataset.Rows), int(dataset.Columns)):
            raise ImageError("unreadable-pixels", f"a compressed frame is {size or 'no image'}, and the header says otherwise")


def _decoded_by_itk(dataset: Dataset) -> Voxels:
    """Decode JPEG processes for which pydicom has no decoder that may be shipped; SimpleITK takes a file, with pixels alone."""
    import SimpleITK  # noqa: PLC0415 - a third of a second to load, for old archives only

    bare = Dataset()
    for keyword in (*PIXEL_KEYWORDS, "SOPClassUID"):
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.SOPClassUID, bare.SOPInstanceUID = SECONDARY_CAPTURE, "2.25.1"
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID, bare.file_meta.MediaStorageSOPInstanceUID = SECONDARY_CAPTURE, "2.25.1"
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        bare.save_as(file, enforce_file_format=True)
        file.flush()
        return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file.name, imageIO="GDCMImageIO")))


def _packed12(dataset: Dataset, frames: int) -> Voxels:
    """Unpack two pixels from three bytes, least significant bits first (PS3.5 8.1.1, bits allocated 12)."""
    count = frames * int(dataset.Rows) * int(dataset.Columns)
    packed = np.frombuffer(dataset.PixelData, np.uint8)[: (count * 12 + 7) // 8]
    padded = np.zeros((count + 1) // 2 * 3, np.uint16)
    padded[: len(packed)] = packed
    first, middle, last = padded.reshape(-1, 3).T
    return np.stack([first | (middle & 15) << 8, middle >> 4 | last << 4], axis=1).ravel()[:count]


def _stored_bits(shaped: Voxels, dataset: Dataset) -> Voxels:
    """Clear the bits above HighBit, where old scanners keep overlays, and carry the sign over them."""
    stored, allocated = int(dataset.get("BitsStored") or 0), shaped.dtype.itemsize * 8
    if shaped.dtype.kind not in "iu" or not 0 < stored < allocated or shaped.shape[-1] != 1:
        return shaped
    if shaped.dtype.kind == "u" and dataset.get("PixelRepresentation"):
        shaped = shaped.view(shaped.dtype.str.replace("u", "i"))
    if shaped.dtype.kind == "i":
        return np.asarray(np.right_shift(np.left_shift(shaped, allocated - stored), allocated - stored))
    return np.asarray(np.bitwise_and(shaped, shaped.dtype.type((1 << stored) - 1)))


def _upright(shaped: Voxels, dataset: Dataset) -> Voxels:
    if text(dataset, "PhotometricInterpretation") != "MONOCHROME1" or shaped.dtype.kind not in "iu":
        return shaped
    if shaped.dtype.kind == "i":
        return np.invert(shaped)
    most = (1 << int(dataset.get("BitsStored") or shaped.dtype.itemsize * 8)) - 1
    return np.asarray(np.subtract(shaped.dtype.type(most), shaped))


def _plain_frame(dataset: Dataset) -> Frame:
    placed = "ImagePositionPatient" in dataset and "ImageOrientationPatient" in dataset
    slope, intercept = _rescale(dataset)
    return Frame(
        position=numbers(dataset, "ImagePositionPatient", 3) if placed else None,
        orientation=numbers(dataset, "ImageOrientationPatient", 6) if placed else np.array([1.0, 0, 0, 0, 1, 0]),
        spacing=_pair(numbers(dataset, "PixelSpacing", 2)) if placed else _plane_spacing(dataset),
        thickness=_number(dataset, "SpacingBetweenSlices") or _number(dataset, "SliceThickness"),
        slope=slope,
        intercept=intercept,
        order=tuple(
            _number(dataset, keyword)
            for keyword in (
                "EchoTime", "DiffusionBValue", "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber",
                "InstanceNumber",
            )
        ),
    )  # fmt: skip


def _offset_frames(dataset: Dataset, count: int) -> list[Frame]:
    """Frames stacked along the normal by GridFrameOffsetVector, as RT Dose has them."""
    first = _plain_frame(dataset)
    offsets = numbers(dataset, "GridFrameOffsetVector", count)
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    origin = numbers(dataset, "ImagePositionPatient", 3)
    return [
        Frame(
            origin + (offset - offsets[0]) * normal, first.orientation, first.spacing, 0.0, first.slope, first.intercept, (0.0,)
        )
        for offset in offsets
    ]


def _grouped_frame(dataset: Dataset, shared: Dataset, group: Dataset, number: int) -> Frame:
    def of(name: str) -> Dataset:
        for place in (group, shared):
            if place.get(name):
                found: Dataset = place[name].value[0]
                return found
        return Dataset()

    measures, position, orientation = of("PixelMeasuresSequence"), of("PlanePositionSequence"), of("PlaneOrientationSequence")
    placed = "ImagePositionPatient" in position and "ImageOrientationPatient" in orientation
    slope, intercept = _rescale(of("PixelValueTransformationSequence"), otherwise=dataset)
    content = of("FrameContentSequence")
    return Frame(
        position=numbers(position, "ImagePositionPatient", 3) if placed else None,
        orientation=numbers(orientation, "ImageOrientationPatient", 6) if placed else np.array([1.0, 0, 0, 0, 1, 0]),
        spacing=_pair(numbers(measures, "PixelSpacing", 2)) if placed else _plane_spacing(dataset),
        thickness=_number(measures, "SpacingBetweenSlices") or _number(measures, "SliceThickness"),
        slope=slope,
        intercept=intercept,
        order=(
            _number(of("MREchoSequence"), "EffectiveEchoTime"),
            _number(of("MRDiffusionSequence"), "DiffusionBValue"),
            _number(content, "TemporalPositionIndex"),
            _number(of("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"),
            float(number),
        ),
    )


def _rescale(item: Dataset, otherwise: Dataset | None = None) -> tuple[float, float]:
    """Return slope and intercept; empty means the identity."""
    source = item if "RescaleSlope" in item or otherwise is None else otherwise
    if "DoseGridScaling" in source:
        return _number(source, "DoseGridScaling") or 1.0, 0.0
    if "ModalityLUTSequence" in source:
        return 1.0, 0.0
    try:
        slope, intercept = (
            float(source.get(key) or default) for key, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
    except (TypeError, ValueError):
        slope = intercept = float("nan")
    if not np.isfinite([slope, intercept]).all():
        raise ImageError("bad-rescale", "RescaleSlope or RescaleIntercept isn't a number")
    return slope, intercept


def _plane_spacing(dataset: Dataset) -> tuple[float, float]:
    """Return the mm between rows and columns of an image without a place in the patient; 1 where nothing says."""
    for keyword in PLANE_SPACINGS:
        if dataset.get(keyword):
            return _pair(numbers(dataset, keyword, 2))
    regions = dataset.get("SequenceOfUltrasoundRegions") or []
    if len(regions) == 1 and regions[0].get("PhysicalUnitsXDirection") == 3:  # centimetres, PS3.3 C.8.5.5.1.15
        down, along = _number(regions[0], "PhysicalDeltaY"), _number(regions[0], "PhysicalDeltaX")
        if down and along:
            return abs(down) * 10.0, abs(along) * 10.0
    return 1.0, 1.0


def _pair(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _number(item: Dataset, keyword: str) -> float:
    try:
        value = float(item.get(keyword) or 0.0)
    except (TypeError, ValueError):
        return 0.0
    return value if np.isfinite(value) else 0.0
