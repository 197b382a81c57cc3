"""The part of an image that holds something: what lies inside a rim of one single value."""

from __future__ import annotations

import numpy as np

from medray.imaging.volume import Volume
from medray.types import Shape

__all__ = ["Box", "cropped", "foreground_box", "shape_of"]

Box = tuple[slice, slice, slice]


def foreground_box(volume: Volume) -> Box:
    """Return the smallest box outside of which every voxel has the value of the corners; all of it where corners differ.

    Skull-stripped MR has such a rim of zeros, padded CT of -1024 or less; noise has none.
    """
    voxels = volume.voxels
    corners = voxels[:, :: max(1, volume.shape[0] - 1), :: max(1, volume.shape[1] - 1), :: max(1, volume.shape[2] - 1)]
    whole = (slice(0, volume.shape[0]), slice(0, volume.shape[1]), slice(0, volume.shape[2]))
    if (corners != corners.reshape(len(voxels), -1)[:, 0, None, None, None]).any():
        return whole
    inside = (voxels != voxels[:, :1, :1, :1]).any(axis=0)
    spans = []
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(used):
            return whole
        spans.append(slice(int(used[0]), int(used[-1]) + 1))
    return spans[0], spans[1], spans[2]


def cropped(volume: Volume, box: Box) -> Volume:
    """Return the part of a volume inside a box; a view, which lies where it lay."""
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([span.start for span in box])
    return Volume(volume.voxels[(slice(None), *box)], affine, volume.meta)


def shape_of(box: Box) -> Shape:
    """Return how many voxels a box holds along I, J, K."""
    i, j, k = (span.stop - span.start for span in box)
    return i, j, k
