"""DICOM segmentations and RT structure sets: labels on the grid of the series that they are about.

Sources: PS3.3 C.8.20 (Segmentation Image), C.8.8.5 and C.8.8.6 (Structure Set, ROI Contour).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medray.errors import LabelError
from medray.formats.dicom_file import parse, reading, text
from medray.formats.dicom_frames import frames_of
from medray.formats.dicom_pixels import stored_pixels
from medray.imaging.volume import Volume
from medray.types import Mask

__all__ = ["read_dicom_labels"]

STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contours that enclose an area; points and open lines don't."""
GRID_TOLERANCE = 0.05
"""Voxels: how far a segmentation's pixels may lie from the image's."""
PLANE_TOLERANCE = 0.25
"""Slices: how far a contour may lie from the image's nearest slice."""


@reading()
def read_dicom_labels(data: bytes, image: Volume, names: Mapping[str, int]) -> Mask:
    """Read a segmentation or a structure set onto an image's grid.

    Args:
        data: The object.
        image: The series that it refers to.
        names: Label names to values. A segment or ROI is taken by its label, its coded type or its ROI name, without
            regard to case and punctuation; others are passed over.

    Returns:
        ``(I, J, K)``.

    Raises:
        LabelError: If no name fits, labels overlap, or it lies on another grid.
        ImageError: If it can't be parsed.
    """
    dataset = parse(data)
    wanted = {_plain(name): value for name, value in names.items() if _plain(name)}
    mask = np.zeros(image.shape, np.uint8)
    structures = text(dataset, "SOPClassUID") == STRUCTURES
    drawn = _draw_structures(dataset, image, wanted, mask) if structures else _draw_segments(dataset, image, wanted, mask)
    if not drawn:
        raise LabelError("unknown-label", f"none of its labels has one of the names {', '.join(names)}")
    return mask


def _plain(name: str) -> str:
    """Return a name without case and punctuation; a plus or minus at its end stays, for it tells sequences apart."""
    return re.sub(r"[^\w+-]|_|[+-](?!$)", "", name.lower().strip())


def _draw_segments(dataset: Dataset, image: Volume, wanted: Mapping[str, int], mask: Mask) -> bool:
    values: dict[int, int] = {}
    for segment in dataset.get("SegmentSequence") or []:
        coded = (segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
        for name in (text(segment, "SegmentLabel"), text(coded, "CodeMeaning")):
            if _plain(name) in wanted:
                values.setdefault(int(segment.SegmentNumber), wanted[_plain(name)])
    if not values:
        return False
    pixels = stored_pixels(dataset)[..., 0]
    threshold = 1
    if text(dataset, "SegmentationType") == "FRACTIONAL":
        threshold = (int(dataset.get("MaximumFractionalValue") or 255) + 1) // 2
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    inverse: NDArray[np.float64] = np.linalg.inv(image.affine).astype(np.float64)
    for number, (frame, group) in enumerate(zip(frames_of(dataset), groups, strict=True)):
        if frame.position is None:
            raise LabelError("label-grid", "a frame of the segmentation says nothing of where it lies")
        value = values.get(_segment_number(group, dataset))
        if value is None:
            continue
        along, down = frame.orientation[:3] * frame.spacing[1], frame.orientation[3:] * frame.spacing[0]
        columns = np.stack([along, down], axis=1)
        window = _window(mask, inverse, frame.position, columns, pixels[number].shape)
        _paint(window, pixels[number] >= threshold, value)
    return True


def _segment_number(group: Dataset, dataset: Dataset) -> int:
    for place in (group, *(dataset.get("SharedFunctionalGroupsSequence") or [])):
        found = place.get("SegmentIdentificationSequence")
        if found:
            return int(found[0].ReferencedSegmentNumber)
    return 0


def _window(
    mask: Mask, inverse: NDArray[np.float64], position: NDArray[np.float64], columns: NDArray[np.float64], size: tuple[int, int]
) -> Mask:
    """Return the view ``(rows, columns)`` of the mask that a frame covers, for frames whose pixels are the image's voxels.

    Raises:
        LabelError: If they aren't, or the frame reaches outside the image.
    """
    steps = inverse[:3, :3] @ columns
    start = inverse[:3, :3] @ position + inverse[:3, 3]
    whole, origin = np.rint(steps).astype(int), np.rint(start).astype(int)
    fits = np.abs(steps - whole).max() * max(size) < GRID_TOLERANCE * 10 and np.abs(start - origin).max() < GRID_TOLERANCE
    axes = [int(np.flatnonzero(step)[0]) if np.abs(step).sum() == 1 else -1 for step in whole.T]
    if not fits or -1 in axes or axes[0] == axes[1]:
        raise LabelError("label-grid", "the segmentation and its image lie on different grids: resample one onto the other")
    index: list[Any] = [int(place) for place in origin]
    for axis, step, count in ((axes[0], whole[axes[0], 0], size[1]), (axes[1], whole[axes[1], 1], size[0])):
        low, high = sorted((int(origin[axis]), int(origin[axis] + step * (count - 1))))
        if low < 0 or high >= mask.shape[axis]:
            raise LabelError("label-grid", "the segmentation reaches outside its image")
        index[axis] = slice(low, high + 1) if step > 0 else slice(high, low - 1 if low else None, -1)
    across = 3 - axes[0] - axes[1]
    if not 0 <= origin[across] < mask.shape[across]:
        raise LabelError("label-grid", "the segmentation reaches outside its image")
    view: Mask = mask[tuple(index)]
    return view if axes[1] < axes[0] else view.T


def _paint(window: Mask, inside: NDArray[np.bool_], value: int) -> None:
    taken = window[inside]
    if ((taken != 0) & (taken != value)).any():
        raise LabelError("overlapping-labels", "two labels claim the same voxels: a label map holds one a voxel")
    window[inside] = value


def _draw_structures(dataset: Dataset, image: Volume, wanted: Mapping[str, int], mask: Mask) -> bool:
    values = {
        int(roi.ROINumber): wanted[_plain(text(roi, "ROIName"))]
        for roi in dataset.get("StructureSetROISequence") or []
        if _plain(text(roi, "ROIName")) in wanted
    }
    inverse: NDArray[np.float64] = np.linalg.inv(image.affine).astype(np.float64)
    drawn = False
    for contours in dataset.get("ROIContourSequence") or []:
        value = values.get(int(contours.ReferencedROINumber))
        if value is None:
            continue
        inside: dict[int, NDArray[np.bool_]] = {}
        for contour in contours.get("ContourSequence") or []:
            if text(contour, "ContourGeometricType") not in CLOSED:
                continue
            k, outline = _outline(contour, inverse, image.shape[2])
            plane = inside.setdefault(k, np.zeros(image.shape[:2], np.bool_))
            plane ^= _filled(outline, image.shape[:2])  # a contour inside another one is a hole
        if contours.get("ContourSequence") and not inside:
            raise LabelError("label-empty", "a structure that is wanted has no closed contour")
        for k, plane in inside.items():
            _paint(mask[:, :, k], plane, value)
            drawn = True
    return drawn


def _outline(contour: Dataset, inverse: NDArray[np.float64], slices: int) -> tuple[int, NDArray[np.float64]]:
    """Return a contour's slice and its ``(N, 2)`` points in voxels along I and J."""
    points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
    places = points @ inverse[:3, :3].T + inverse[:3, 3]
    k = round(float(places[:, 2].mean()))
    if np.abs(places[:, 2] - k).max() > PLANE_TOLERANCE or not 0 <= k < slices:
        raise LabelError("label-grid", "a contour lies between the image's slices, or outside of them")
    return k, places[:, :2]


def _filled(outline: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels ``(I, J)`` whose centres lie inside a polygon, by the even-odd rule."""
    inside = np.zeros(shape, np.bool_)
    following = np.roll(outline, -1, axis=0)
    low, high = np.minimum(outline[:, 1], following[:, 1]), np.maximum(outline[:, 1], following[:, 1])
    rise = following[:, 1] - outline[:, 1]
    centres = np.arange(shape[0])
    for j in range(max(0, int(np.ceil(low.min()))), min(shape[1], int(np.floor(high.max())) + 1)):
        crossed = np.flatnonzero((low <= j) & (j < high))
        where = outline[crossed, 0] + (j - outline[crossed, 1]) / rise[crossed] * (following[crossed, 0] - outline[crossed, 0])
        inside[:, j] = (centres[:, None] > where[None]).sum(axis=1) % 2 == 1
    return inside
