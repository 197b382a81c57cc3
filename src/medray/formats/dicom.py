"""DICOM image series: files to one `Volume`, ordered by geometry and never by name or InstanceNumber.

Sources: PS3.3 C.7.6.2 (Image Plane: position, orientation, spacing), C.7.6.3 (Image Pixel), C.11.1 (Modality LUT).
DICOM's world is LPS in mm already. A slice's rows run along J and its columns along I, so that a series stacked in
K, J, I order is the ``(I, J, K)`` array in Fortran order: no voxel moves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError

from medray.errors import ImageError
from medray.imaging.volume import Volume
from medray.types import Affine, Voxels

__all__ = ["DicomHeader", "is_dicom", "read_dicom_header", "read_dicom_series"]

HEADER_TAGS = [
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality",
    "StudyDate", "StudyTime", "Rows", "Columns",
]  # fmt: skip
META_KEYWORDS = {"modality": "Modality", "body_part": "BodyPartExamined"}
CODE = re.compile(r"[A-Z0-9_]{1,16}")
"""A code string as the standard's defined terms are written: what else a scanner put there may be a name."""
POSITION_TOLERANCE_MM = 1e-2
SPACING_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """What grouping needs of one file. Holds identifiers: keep it inside the ingesting process.

    Attributes:
        patient: PatientID; empty where the file has none.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        instance: SOPInstanceUID.
        modality: Modality, such as ``"MR"``.
        acquired: StudyDate and StudyTime as digits, for ordering time points.
        has_pixels: Whether the object has rows and columns at all.
    """

    patient: str
    study: str
    series: str
    instance: str
    modality: str
    acquired: str
    has_pixels: bool


def is_dicom(head: bytes) -> bool:
    """Tell from a file's first 132 bytes whether it is a DICOM file (PS3.10 7.1)."""
    return head[128:132] == b"DICM"


def read_dicom_header(data: bytes) -> DicomHeader:
    """Read the identifying attributes of one file, without its pixels.

    Args:
        data: The file, or at least its part before PixelData.

    Raises:
        ImageError: If it isn't DICOM, or has no series.
    """
    dataset = _parse(data, stop_before_pixels=True, specific_tags=HEADER_TAGS)
    if not dataset.get("SeriesInstanceUID"):
        raise ImageError("no-series", "the object has no SeriesInstanceUID and so belongs to no series")
    return DicomHeader(
        patient=str(dataset.get("PatientID", "")),
        study=str(dataset.get("StudyInstanceUID", "")),
        series=str(dataset.SeriesInstanceUID),
        instance=str(dataset.get("SOPInstanceUID", "")),
        modality=_code(dataset, "Modality"),
        acquired=f"{dataset.get('StudyDate', '')}{dataset.get('StudyTime', '')}",
        has_pixels="Rows" in dataset and "Columns" in dataset,
    )


def read_dicom_series(files: Sequence[bytes]) -> Volume:
    """Read the slices of one series.

    Args:
        files: One single-frame object each, in any order.

    Returns:
        One channel ``(1, I, J, K)``: I along a row's columns, J down the rows, K by position along the normal.
        Integers when rescaling keeps them so, else float32.

    Raises:
        ImageError: If a file can't be parsed, slices disagree in size or orientation, lie twice at one place, or
            are missing or unevenly spaced.
    """
    slices = [_parse(data) for data in files]
    first = slices[0]
    _require_same(slices)
    normal = _normal(first)
    positions = np.array([np.dot(normal, _numbers(item, "ImagePositionPatient", 3)) for item in slices])
    order = np.argsort(positions, kind="stable")
    step = _slice_step(positions[order], first)
    ordered = [slices[index] for index in order]
    stack = np.stack([_pixels(item) for item in ordered])
    meta = {name: _code(first, keyword) for name, keyword in META_KEYWORDS.items()}
    affine = _affine(ordered, normal * step)
    return Volume(stack.transpose(2, 1, 0)[np.newaxis], affine, meta).checked_finite()


def _code(dataset: Dataset, keyword: str) -> str:
    value = str(dataset.get(keyword, ""))
    return value if CODE.fullmatch(value) else ""


def _parse(data: bytes, **options: Any) -> Dataset:
    """Parse one file. Values aren't validated: a warning would print them, and they may be a patient's."""
    try:
        with disable_value_validation():
            return dcmread(BytesIO(data), **options)
    except InvalidDicomError:
        raise ImageError("not-dicom", "the file has no DICOM preamble; it isn't a DICOM file") from None
    except Exception as error:  # noqa: BLE001 - pydicom raises many kinds on damaged files
        raise ImageError("unreadable-dicom", f"the file is damaged ({type(error).__name__})") from None


def _require_same(slices: Sequence[Dataset]) -> None:
    first = slices[0]
    size = (first.get("Rows"), first.get("Columns"))
    if None in size:
        raise ImageError("no-pixels", "the object has no rows and columns")
    orientation = _numbers(first, "ImageOrientationPatient", 6)
    for item in slices:
        if int(item.get("NumberOfFrames") or 1) != 1 or int(item.get("SamplesPerPixel") or 1) != 1:
            raise ImageError("unsupported-frames", "multi-frame and colour objects are not supported")
        if (item.get("Rows"), item.get("Columns")) != size:
            raise ImageError("mixed-sizes", "slices of one series have different numbers of rows or columns")
        if np.abs(_numbers(item, "ImageOrientationPatient", 6) - orientation).max() > 1e-4:
            raise ImageError("mixed-orientations", "slices of one series point different ways; split off the localizer")


def _numbers(item: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    try:
        values = np.array([float(value) for value in item[keyword].value], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        raise ImageError("no-geometry", f"{keyword} is missing or isn't {count} numbers")
    return values


def _normal(item: Dataset) -> NDArray[np.float64]:
    orientation = _numbers(item, "ImageOrientationPatient", 6)
    along, down = orientation[:3], orientation[3:]
    if abs(np.dot(along, down)) > 1e-3 or abs(np.linalg.norm(along) - 1) > 1e-2 or abs(np.linalg.norm(down) - 1) > 1e-2:
        raise ImageError("bad-affine", "ImageOrientationPatient isn't two perpendicular unit vectors")
    normal = np.cross(along, down)
    return normal / np.linalg.norm(normal)


def _slice_step(positions: NDArray[np.float64], first: Dataset) -> float:
    """Return the distance between slices along the normal, in mm."""
    if len(positions) == 1:
        return float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1.0)
    gaps = np.diff(positions)
    if gaps.min() < POSITION_TOLERANCE_MM:
        raise ImageError("duplicate-slices", f"{int((gaps < POSITION_TOLERANCE_MM).sum())} slices lie where another one lies")
    step = float(np.median(gaps))
    holes = gaps > 1.5 * step
    if holes.any():
        missing = int(np.round(gaps[holes] / step - 1).sum())
        raise ImageError(
            "missing-slices", f"about {missing} of {len(positions) + missing} slices are missing (spacing {step:.4g} mm)"
        )
    if np.abs(gaps - step).max() > max(SPACING_TOLERANCE * step, POSITION_TOLERANCE_MM):
        raise ImageError("uneven-slices", f"slice distances run from {gaps.min():.4g} to {gaps.max():.4g} mm")
    return float(positions[-1] - positions[0]) / (len(positions) - 1)


def _affine(ordered: Sequence[Dataset], normal_step: NDArray[np.float64]) -> Affine:
    first, last = ordered[0], ordered[-1]
    orientation = _numbers(first, "ImageOrientationPatient", 6)
    row_spacing, column_spacing = _numbers(first, "PixelSpacing", 2)
    origin = _numbers(first, "ImagePositionPatient", 3)
    travel = _numbers(last, "ImagePositionPatient", 3) - origin
    if len(ordered) > 1:
        step = travel / (len(ordered) - 1)
        if np.linalg.norm(step - normal_step) > 0.01 * np.linalg.norm(normal_step):
            raise ImageError("sheared-stack", "slices don't stack along their normal (gantry tilt)")
        normal_step = step
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * column_spacing
    affine[:3, 1] = orientation[3:] * row_spacing
    affine[:3, 2] = normal_step
    affine[:3, 3] = origin
    return affine


def _pixels(item: Dataset) -> Voxels:
    """Return one slice ``(J, I)`` after the modality rescale."""
    try:
        stored = item.pixel_array
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds on damaged pixels
        raise ImageError("unreadable-pixels", f"the pixels can't be decoded ({type(error).__name__})") from None
    slope, intercept = _rescale(item)
    if slope == 1 and intercept == int(intercept) and abs(intercept) < 2**15:
        whole = stored.astype(np.int32) + int(intercept) if intercept else stored
        return _narrow(whole, item)
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _rescale(item: Dataset) -> tuple[float, float]:
    """Return slope and intercept; empty means the identity (PS3.3 C.11.1)."""
    try:
        slope, intercept = (float(item.get(key) or default) for key, default in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    except (TypeError, ValueError):
        slope = intercept = float("nan")
    if not np.isfinite([slope, intercept]).all():
        raise ImageError("bad-rescale", "RescaleSlope or RescaleIntercept isn't a number")
    return slope, intercept


def _narrow(values: Voxels, item: Dataset) -> Voxels:
    """Return int16 where the declared bits allow it for every slice of the series, else int32."""
    bits = int(item.BitsStored) + (1 if item.PixelRepresentation == 0 else 0)
    fits = 2 ** (bits - 1) + abs(int(_rescale(item)[1])) <= 2**15
    return values.astype(np.int16 if fits else np.int32, copy=False)
