"""The pixels of one DICOM object, decoded within bounds, before any rescaling.

Sources: PS3.3 C.7.6.3 (Image Pixel); PS3.5 8.1.1 and 8.2 (pixel encoding).
"""

from __future__ import annotations

import tempfile

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID

from medray.errors import ImageError
from medray.formats.codestream import frame_size
from medray.formats.dicom_file import DEFLATED, frame_count, silence, text
from medray.types import Voxels

__all__ = ["ITK_SYNTAXES", "stored_pixels"]

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
UNITS = ("HU", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")
"""Rescale types that are one (PS3.3 C.11.1.1.2); devices also write US, UNSPECIFIED and words of their own."""
MEASURED_MODALITIES = ("CT", "MR", "PT", "NM", "RTDOSE")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def stored_pixels(dataset: Dataset) -> Voxels:
    """Decode an object's pixels, before any rescaling.

    Returns:
        ``(F, J, I, S)``: frames, rows, columns, samples; colour is RGB. MONOCHROME1 is turned round, so that more is brighter,
        unless values are a measured quantity.

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
    shift = int(dataset.get("HighBit") or stored - 1) + 1 - stored
    if not 0 <= shift <= allocated - stored:
        raise ImageError("unreadable-pixels", "HighBit and BitsStored contradict each other")
    shaped = np.asarray(np.right_shift(shaped, shift)) if shift else shaped
    if shaped.dtype.kind == "i":
        return np.asarray(np.right_shift(np.left_shift(shaped, allocated - stored), allocated - stored))
    return np.asarray(np.bitwise_and(shaped, shaped.dtype.type((1 << stored) - 1)))


def _upright(shaped: Voxels, dataset: Dataset) -> Voxels:
    """Turn what is meant to be shown with low values bright; a measured quantity is what it is, however it is to be shown."""
    if text(dataset, "PhotometricInterpretation") != "MONOCHROME1" or shaped.dtype.kind not in "iu" or _measured(dataset):
        return shaped
    if shaped.dtype.kind == "i":
        return np.invert(shaped)
    most = (1 << int(dataset.get("BitsStored") or shaped.dtype.itemsize * 8)) - 1
    return np.asarray(np.subtract(shaped.dtype.type(most), shaped))


def _measured(dataset: Dataset) -> bool:
    """Tell whether values have a unit: MONOCHROME1 speaks of the display alone (PS3.3 C.7.6.3.1.2)."""
    named = any(keyword in dataset for keyword in ("Units", "RealWorldValueMappingSequence"))
    return named or text(dataset, "Modality") in MEASURED_MODALITIES or text(dataset, "RescaleType").upper() in UNITS
