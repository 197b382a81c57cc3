"""Frames to one grid: sorted by where they lie, never by name or InstanceNumber.

DICOM's world is LPS in mm already. A slice's rows run along J and its columns along I (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medray.errors import ImageError
from medray.formats.dicom_frames import Frame
from medray.formats.raw import byte_size
from medray.types import Affine, Voxels

__all__ = ["Stack", "rectified", "stack_of"]

POSITION_TOLERANCE_MM = 1e-2
SPACING_TOLERANCE = 1e-2
ORIENTATION_TOLERANCE = 1e-3
SAME_PLACE_MM = 0.1
TRIGGER = 3
"""Place of the trigger time in what tells frames apart."""
KINDS = 2
"""Echo time and b-value, the first of what tells frames apart, are a channel's own; times go on from slice to slice."""
TILT_TOLERANCE = 1e-2
"""Of a slice's step: more sideways than this is a gantry tilt."""


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """How frames make a grid.

    Attributes:
        order: ``(K, C)``: the number of the frame that is slice k of channel c.
        affine: ``(4, 4)``; sheared where the gantry was tilted.
        tilted: Whether slices don't stack along their normal.
    """

    order: NDArray[np.int64]
    affine: Affine
    tilted: bool


def stack_of(frames: Sequence[Frame]) -> Stack:
    """Sort frames along their normal; several at each position become channels.

    Raises:
        ImageError: If orientations or spacings differ, positions repeat unequally, slices are missing or uneven.
    """
    first = frames[0]
    if first.position is None:
        return _unplaced(frames)
    normal = _normal(first)
    for frame in frames:
        if frame.position is None or np.abs(frame.orientation - first.orientation).max() > ORIENTATION_TOLERANCE:
            raise ImageError("mixed-orientations", "slices of one series point different ways")
        if not np.allclose(frame.spacing, first.spacing, rtol=1e-3):
            raise ImageError("mixed-spacings", "slices of one series have different pixel spacings")
    positions = np.array([frame.position for frame in frames])
    along = positions @ normal
    order = _grouped(along, frames)
    placed, heights = positions[order[:, 0]], along[order[:, 0]]
    _require_even(heights)
    _require_dense(heights, first)
    origin, step = placed[0], _step(placed, heights, normal, first)
    sideways = float(np.linalg.norm(step - normal * np.dot(step, normal)))
    tilted = sideways > TILT_TOLERANCE * float(np.linalg.norm(step))
    if tilted and np.abs(placed - origin - np.outer(np.arange(len(placed)), step)).max() > 10 * POSITION_TOLERANCE_MM:
        raise ImageError("crooked-stack", "slices are shifted sideways unevenly: they don't make a grid")
    return Stack(order, _affine(first, origin, step), tilted)


def rectified(voxels: Voxels, affine: Affine) -> tuple[Voxels, Affine]:
    """Turn a sheared stack into a rectangular grid: each slice moves within its own plane, interpolated linearly.

    Args:
        voxels: ``(C, I, J, K)``.
        affine: Its third column isn't perpendicular to the first two, which are to each other.

    Returns:
        A grid that holds every slice; what no slice covers has the volume's lowest value.

    Raises:
        ImageError: If it is tilted by more than 45 degrees, or would not fit into memory.
    """
    axes = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    step = affine[:3, 2]
    if np.linalg.norm(axes.T @ step) > np.linalg.norm(step - axes @ (axes.T @ step)):
        raise ImageError("crooked-stack", "slices slide sideways by more than 45 degrees: no gantry tilts so far")
    slide = axes.T @ step / np.linalg.norm(affine[:3, :2], axis=0)
    count = voxels.shape[3]
    offsets = np.outer(np.arange(count), slide)
    low = np.floor(offsets.min(axis=0)).astype(int)
    room = np.ceil(offsets.max(axis=0)).astype(int) - low + 1
    shape = (voxels.shape[0], voxels.shape[1] + int(room[0]), voxels.shape[2] + int(room[1]), count)
    byte_size(voxels.dtype, shape)
    result = np.full(shape, voxels.min(), dtype=voxels.dtype)
    for k in range(count):
        start = offsets[k] - low
        whole = np.floor(start).astype(int)
        part = _shifted(voxels[..., k].astype(np.float32), start - whole)
        window = result[:, whole[0] : whole[0] + part.shape[1], whole[1] : whole[1] + part.shape[2], k]
        window[...] = np.rint(part) if voxels.dtype.kind in "iu" else part
    straight = affine.copy()
    straight[:3, 2] = step - axes @ (axes.T @ step)
    straight[:3, 3] = affine[:3, 3] + affine[:3, :2] @ low
    return result, straight


def _shifted(plane: NDArray[np.float32], shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """Move a plane ``(C, I, J)`` by a fraction of a voxel along I and J; the result has one more voxel each way."""
    for axis, fraction in ((1, shift[0]), (2, shift[1])):
        edge = [(0, 0), (0, 0), (0, 0)]
        edge[axis] = (1, 1)
        padded = np.pad(plane, edge, mode="edge")
        before, after = (np.take(padded, np.arange(padded.shape[axis] - 1) + offset, axis) for offset in (0, 1))
        plane = np.float32(fraction) * before + np.float32(1 - fraction) * after
    return plane


def _normal(frame: Frame) -> NDArray[np.float64]:
    along, down = frame.orientation[:3], frame.orientation[3:]
    if abs(np.dot(along, down)) > 1e-3 or abs(np.linalg.norm(along) - 1) > 1e-2 or abs(np.linalg.norm(down) - 1) > 1e-2:
        raise ImageError("bad-affine", "ImageOrientationPatient isn't two perpendicular unit vectors")
    normal = np.cross(along, down)
    return normal / np.linalg.norm(normal)


def _unplaced(frames: Sequence[Frame]) -> Stack:
    """Frames without a place in the patient: one plane, frames are channels."""
    affine = np.diag([frames[0].spacing[1], frames[0].spacing[0], 1.0, 1.0])
    return Stack(np.arange(len(frames))[np.newaxis], affine, tilted=False)


def _grouped(along: NDArray[np.float64], frames: Sequence[Frame]) -> NDArray[np.int64]:
    """Return ``(K, C)`` frame numbers: rows by position, columns by what tells frames of one position apart."""
    order = np.argsort(along, kind="stable")
    breaks = np.flatnonzero(np.diff(along[order]) > POSITION_TOLERANCE_MM) + 1
    places = np.split(order, breaks)
    counts = {len(place) for place in places}
    if len(counts) > 1:
        most = max(counts)
        extra = sum(len(place) - 1 for place in places)
        raise ImageError(
            "duplicate-slices", f"{extra} slices lie where another one lies, and not equally often (up to {most} at one place)"
        )
    ordered = np.array([sorted(place, key=lambda number: frames[number].order) for place in places])
    calm = np.array([sorted(place, key=lambda number: _without_trigger(frames[number])) for place in places])
    ranks = np.empty(len(frames), np.int64)
    ranks[calm] = np.arange(calm.shape[1])
    if (ranks[ordered] != ranks[ordered[0]]).any():  # trigger times reorder some places and not others
        ordered = calm
    _require_channels(ordered, frames)
    return ordered


def _without_trigger(frame: Frame) -> tuple[float, ...]:
    """Return what tells a frame apart without its delay after a heart beat, which jitters where it isn't what was varied."""
    return frame.order[:TRIGGER] + frame.order[TRIGGER + 1 :]


def _require_channels(ordered: NDArray[np.int64], frames: Sequence[Frame]) -> None:
    """Refuse frames at one height that are no channels: beside each other, the same one twice, or of unlike kinds."""
    if ordered.shape[1] == 1:
        return
    kinds = np.array([frames[number].order[:KINDS] for number in ordered[0]])
    for place in ordered:
        own = [frames[number] for number in place]
        if np.ptp([frame.position for frame in own], axis=0).max() > SAME_PLACE_MM:
            raise ImageError("mixed-positions", "slices of one series lie beside each other: it holds several images")
        if len({frame.order for frame in own}) < len(own):
            raise ImageError("duplicate-slices", f"{len(own)} slices lie at one place and nothing tells them apart")
        if not np.allclose([frame.order[:KINDS] for frame in own], kinds, rtol=0.02):
            raise ImageError("mixed-channels", "echo times or b-values are not the same ones at every slice")


def _require_even(heights: NDArray[np.float64]) -> None:
    if len(heights) < 2:
        return
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    holes = gaps > 1.5 * step
    if holes.any():
        missing = int(np.round(gaps[holes] / step - 1).sum())
        raise ImageError(
            "missing-slices", f"about {missing} of {len(heights) + missing} slices are missing (spacing {step:.4g} mm)"
        )
    if np.abs(gaps - step).max() > max(SPACING_TOLERANCE * step, POSITION_TOLERANCE_MM):
        raise ImageError("uneven-slices", f"slice distances run from {gaps.min():.4g} to {gaps.max():.4g} mm")


def _require_dense(heights: NDArray[np.float64], first: Frame) -> None:
    """Refuse a stack of which every other slice, or two of three, are missing: evenly, so that only the header tells.

    Some devices write the gap between slices as SpacingBetweenSlices, and not the distance of their centres (PS3.3 C.7.6.2):
    such a stack is whole.
    """
    if len(heights) < 2 or first.between <= 0:
        return
    step = float(np.median(np.diff(heights)))
    times = step / first.between
    touching = first.thickness >= step * (1 - SPACING_TOLERANCE)  # a reformatted stack may have kept its source's number
    whole = touching or abs(step - first.between - first.thickness) <= SPACING_TOLERANCE * step
    if round(times) >= 2 and abs(times - round(times)) <= SPACING_TOLERANCE * times and not whole:
        detail = (
            f"slices lie {step:.4g} mm apart and the header says {first.between:.4g}: all but each {round(times)}. are missing"
        )
        raise ImageError("missing-slices", detail)


def _step(
    placed: NDArray[np.float64], heights: NDArray[np.float64], normal: NDArray[np.float64], first: Frame
) -> NDArray[np.float64]:
    """Return the vector from a slice to the next one, in mm."""
    if len(placed) == 1:
        return normal * (first.between or first.thickness or 1.0)
    step: NDArray[np.float64] = (placed[-1] - placed[0]) / (len(placed) - 1)
    straight = normal * (heights[-1] - heights[0]) / (len(placed) - 1)
    return straight if np.linalg.norm(step - straight) <= TILT_TOLERANCE * np.linalg.norm(step) else step


def _affine(frame: Frame, origin: NDArray[np.float64], step: NDArray[np.float64]) -> Affine:
    row_spacing, column_spacing = frame.spacing
    affine = np.eye(4)
    affine[:3, 0] = frame.orientation[:3] * column_spacing
    affine[:3, 1] = frame.orientation[3:] * row_spacing
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return affine
