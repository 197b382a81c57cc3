"""DICOM image series: files to one `Volume`, ordered by geometry and never by name or InstanceNumber.

A slice's rows run along J and its columns along I, so that a series stacked in K, J, I order is the ``(I, J, K)`` array in
Fortran order: no voxel moves. Uncompressed single-frame series, the bulk of what hospitals hold, are read by noting where their
elements lie (`medray.formats.dicom_elements`); everything else goes through pydicom and its decoders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medray.errors import ImageError
from medray.formats.dicom_elements import UNDEFINED, Elements, walk
from medray.formats.dicom_file import parse, reading, starts_bare, text
from medray.formats.dicom_frames import Frame, frames_of
from medray.formats.dicom_pixels import stored_pixels
from medray.formats.dicom_stack import Stack, rectified, stack_of
from medray.imaging.volume import Volume
from medray.types import Voxels

__all__ = ["DicomSeries", "Source", "is_dicom", "read_dicom_series"]

META_KEYWORDS = {"modality": "Modality", "body_part": "BodyPartExamined"}
CODE = re.compile(r"[A-Z0-9_]{1,16}")
"""A code string as the standard's defined terms are written: what else a scanner put there may be a name."""

SOP_INSTANCE, ROWS, COLUMNS, SAMPLES, FRAMES = 0x00080018, 0x00280010, 0x00280011, 0x00280002, 0x00280008
ALLOCATED, STORED, SIGNED, PHOTOMETRIC = 0x00280100, 0x00280101, 0x00280103, 0x00280004
POSITION, ORIENTATION, SPACING, THICKNESS, BETWEEN = 0x00200032, 0x00200037, 0x00280030, 0x00180050, 0x00180088
SLOPE, INTERCEPT = 0x00281053, 0x00281052
HIGH_BIT, DOSE_SCALING, BURNED_IN, CONVERSION = 0x00280102, 0x3004000E, 0x00280301, 0x00080064
ORDER = (0x00180081, 0x00189087, 0x00200100, 0x00181060, 0x00200012, 0x00200013)
MODALITY_LUT = 0x00283000
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")

Source = Callable[[], bytes]
"""Reads one file, once."""


@dataclass(frozen=True, slots=True, eq=False)
class DicomSeries:
    """A series as it was read. Its header holds identifiers: keep it inside the ingesting process.

    Attributes:
        volume: The image.
        header: The first slice's data set without its pixels.
        annotated: Whether any of its objects says that text is burned into it, or that it was captured from a screen.
        instances: SOPInstanceUID of each object, in the order of its first slice in the volume.
    """

    volume: Volume
    header: Dataset
    instances: tuple[str, ...]
    annotated: bool = False


def is_dicom(head: bytes) -> bool:
    """Tell from 132 bytes whether a file is DICOM (PS3.10 7.1), or a data set that was stored without a preamble."""
    return head[128:132] == b"DICM" or starts_bare(head)


@reading()
def read_dicom_series(files: Sequence[Source]) -> DicomSeries:
    """Read the objects of one series.

    Args:
        files: Single- or multi-frame objects, in any order; each is read once and let go.

    Returns:
        ``(C, I, J, K)``: I along a row's columns, J down the rows, K by position along the normal; frames at one position, and
        colour samples, are channels. A tilted stack is resampled to a rectangular grid. Integers when rescaling keeps them
        so, else float32. Images without a place in the patient (radiographs, ultrasound) have K = 1; a cine's frames are
        channels.

    Raises:
        ImageError: If a file can't be parsed, or its slices don't make one grid.
    """
    first = files[0]()
    files = [lambda: first, *files[1:]]
    plain = _plain(first)
    found = (_read_plain(plain, files) if plain is not None else None) or _read_any(files)
    frames, channels, instances, annotated = found
    stack = stack_of(frames)
    header = parse(first, stop_before_pixels=True)
    return replace(_assembled(channels, stack, header, instances), annotated=annotated)


def _assembled(channels: Voxels, stack: Stack, header: Dataset, instances: Sequence[str]) -> DicomSeries:
    """Put frames ``(F, S, J, I)`` in the stack's order."""
    slices, count = stack.order.shape
    frames, samples = channels.shape[:2]
    if frames == slices and (np.diff(stack.order[:, 0]) == 1).all():
        ordered = channels[:, np.newaxis]
    else:
        ordered = channels[stack.order.ravel()].reshape(slices, count, *channels.shape[1:])
    # (K, C, S, J, I) to (C * S, I, J, K)
    voxels = ordered.transpose(1, 2, 4, 3, 0).reshape(count * samples, channels.shape[3], channels.shape[2], slices)
    affine = stack.affine
    meta = {name: _code(header, keyword) for name, keyword in META_KEYWORDS.items()}
    if samples > 1:
        meta["samples"] = str(samples)
    if stack.tilted:
        voxels, affine = rectified(voxels, affine)
        meta["rectified"] = "gantry tilt"
    by_place = dict.fromkeys(instances[number] for number in stack.order.ravel().tolist() if instances[number])
    return DicomSeries(Volume(voxels, affine, meta).checked_finite(), header, tuple(by_place))


def _code(dataset: Dataset, keyword: str) -> str:
    value = text(dataset, keyword)
    return value if CODE.fullmatch(value) else ""


Found = tuple[list[Frame], Voxels, list[str], bool]
"""Frames, their pixels ``(F, S, J, I)``, the SOPInstanceUID of each, and whether an object says that it is annotated."""


def _read_any(files: Sequence[Source]) -> Found:
    """Read with pydicom, whatever it is."""
    frames: list[Frame] = []
    pixels: list[Voxels] = []
    instances: list[str] = []
    annotated = False
    for file in files:
        dataset = parse(file())
        own = frames_of(dataset)
        stored = stored_pixels(dataset)
        if pixels and stored.shape[1:] != pixels[0].shape[1:]:
            raise ImageError("mixed-sizes", "slices of one series have different numbers of rows or columns")
        frames += own
        pixels.append(stored)
        instances += [text(dataset, "SOPInstanceUID")] * len(own)
        annotated |= text(dataset, "BurnedInAnnotation").upper() == "YES" or "ConversionType" in dataset
    stored = np.concatenate(pixels) if len(pixels) > 1 else pixels[0]
    return frames, _rescaled(stored, frames).transpose(0, 3, 1, 2), instances, annotated


def _rescaled(stored: Voxels, frames: Sequence[Frame]) -> Voxels:
    """Return ``(F, J, I, S)`` in the modality's unit: the narrowest integers that hold it, else float32."""
    slopes, intercepts = np.array([frame.slope for frame in frames]), np.array([frame.intercept for frame in frames])
    if stored.dtype.kind == "f" or (slopes != 1).any() or (intercepts != np.rint(intercepts)).any():
        scale, shift = (values.astype(np.float32)[:, None, None, None] for values in (slopes, intercepts))
        return stored.astype(np.float32) * scale + shift
    if not intercepts.any():
        return _narrow(stored)
    return _narrow(stored.astype(np.int64) + intercepts.astype(np.int64)[:, None, None, None])


def _narrow(values: Voxels) -> Voxels:
    """Return uint8 as it is, else the first of int16, int32, uint32 and float32 that holds all values."""
    if values.dtype in (np.uint8, np.int16):
        return values
    low, high = int(values.min()), int(values.max())
    for dtype in (np.int16, np.int32, np.uint32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Plain:
    """What every file of an uncompressed single-frame series must have in common with the first."""

    rows: int
    columns: int
    dtype: str
    stored: int
    intercept: int

    @property
    def narrow(self) -> bool:
        """Whether all values that the declared bits allow fit int16 after the intercept."""
        low, high = (-(2 ** (self.stored - 1)), 2 ** (self.stored - 1)) if self.dtype[1] == "i" else (0, 2**self.stored)
        return low + self.intercept >= -(2**15) and high + self.intercept <= 2**15


def _plain(data: bytes) -> _Plain | None:
    """Describe an uncompressed, single-frame, placed, 16-bit grey image; None for anything else."""
    item = walk(data)
    return _described(item) if item is not None else None


def _described(item: Elements) -> _Plain | None:
    slope, intercept = item.numbers(SLOPE) or (1.0,), item.numbers(INTERCEPT) or (0.0,)
    rows, columns = item.integer(ROWS), item.integer(COLUMNS)
    simple = (
        item.syntax in NATIVE
        and item.pixels is not None
        and item.pixels[1] not in {0, UNDEFINED}
        and item.pixels[1] >= rows * columns * 2
        and item.pixels[0] + rows * columns * 2 <= len(item.data)
        and item.integer(ALLOCATED) == 16
        and item.integer(SAMPLES, 1) == 1
        and item.text(PHOTOMETRIC) == "MONOCHROME2"
        and item.numbers(FRAMES) in {(), (1.0,)}
        and MODALITY_LUT not in item.places
        and DOSE_SCALING not in item.places
        and item.integer(HIGH_BIT, item.integer(STORED) - 1) == item.integer(STORED) - 1
        and len(item.numbers(POSITION)) == 3
        and len(item.numbers(ORIENTATION)) == 6
        and len(item.numbers(SPACING)) == 2
        and slope == (1.0,)
        and intercept[0].is_integer()
        and min(rows, columns) > 0
    )
    if not simple:
        return None
    dtype = "<i2" if item.integer(SIGNED) else "<u2"
    described = _Plain(rows, columns, dtype, item.integer(STORED), int(intercept[0]))
    return described if 0 < described.stored <= 16 else None


def _read_plain(plain: _Plain, files: Sequence[Source]) -> Found | None:
    """Read a whole series by noting where its elements lie; None when a file isn't like the first."""
    pixels = np.empty((len(files), 1, plain.rows, plain.columns), np.int16)

    found: list[tuple[Frame, str]] = []
    annotated = False
    for number, file in enumerate(files):
        item = walk(file())
        if item is None or _described(item) != plain or not _copy_pixels(item, plain, pixels[number, 0]):
            return None
        found.append((_plain_frame(item), item.text(SOP_INSTANCE)))
        annotated |= item.text(BURNED_IN).upper() == "YES" or CONVERSION in item.places
    return [frame for frame, _ in found], pixels, [uid for _, uid in found], annotated


def _copy_pixels(item: Elements, plain: _Plain, target: NDArray[np.int16]) -> bool:
    """Copy one slice, unused high bits cleared and intercept added, while it is in the cache; False if that overflows."""
    assert item.pixels is not None  # noqa: S101 - `_described` has seen to it
    stored = np.frombuffer(item.data, plain.dtype, plain.rows * plain.columns, item.pixels[0]).reshape(target.shape)
    spare = 16 - plain.stored
    if spare and plain.dtype == "<i2":
        stored = np.left_shift(stored, spare) >> spare
    elif spare:
        stored = np.bitwise_and(stored, np.uint16((1 << plain.stored) - 1))
    if not plain.narrow and not (
        int(stored.min()) + plain.intercept >= -(2**15) and int(stored.max()) + plain.intercept < 2**15
    ):
        return False
    # Two's complement: adding modulo 2^16 is right whenever the sum fits, which was just seen.
    np.add(stored.view(np.int16), np.int16(plain.intercept), out=target)
    return True


def _plain_frame(item: Elements) -> Frame:
    row_spacing, column_spacing = item.numbers(SPACING)
    return Frame(
        position=np.array(item.numbers(POSITION)),
        orientation=np.array(item.numbers(ORIENTATION)),
        spacing=(row_spacing, column_spacing),
        thickness=(item.numbers(THICKNESS) or (0.0,))[0],
        between=(item.numbers(BETWEEN) or (0.0,))[0],
        slope=1.0,
        intercept=0.0,
        order=tuple((item.numbers(tag) or (0.0,))[0] for tag in ORDER),
    )
