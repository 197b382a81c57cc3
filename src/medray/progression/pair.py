"""Two scans of a patient as one image: what a model of progression sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medray.errors import InputError
from medray.imaging.transitions import Transitions
from medray.imaging.volume import Volume
from medray.progression.align import Alignment, align
from medray.progression.history import TimePoint, years_between
from medray.types import Mask

__all__ = ["label_map_of_pair", "pair_of"]


def pair_of(earlier: TimePoint, later: TimePoint) -> tuple[Volume, Alignment]:
    """Bring two time points onto a grid midway between them.

    Args:
        earlier: With an image of one channel; its mask may be anything.
        later: Of the same patient.

    Returns:
        A volume of two channels, the earlier scan's first, 0 where a scan shows nothing, whose meta says ``years``; and how the
        scans lie to each other.

    Raises:
        InputError: If they aren't in this order, or their modalities differ.
        ImageError: If they can't be aligned.
    """
    years = years_between(earlier, later)
    kinds = {point.image.meta.get("modality", "OT") for point in (earlier, later)}
    if years <= 0 or len(kinds) > 1:
        raise InputError(f"a pair is an earlier and a later scan of one modality; these are {years:g} years apart, of {kinds}")
    found = align([earlier.image, later.image], [earlier.name, later.name])
    channels = [
        found.sampled(at, point.image.with_voxels(point.image.voxels[:1]), found.affine, found.shape)
        for at, point in enumerate((earlier, later))
    ]
    return Volume(np.stack(channels), found.affine, {"modality": kinds.pop(), "years": f"{years:.6f}"}), found


def label_map_of_pair(points: Sequence[TimePoint], names: Mapping[str, int], labels: Transitions, where: Alignment) -> Mask:
    """Return the label map of a pair, ``(I, J, K)`` on its grid.

    Args:
        points: The earlier one and the later one, with their masks.
        names: Of the masks' labels, and their values.
        labels: Those that are followed; all others are background.
        where: From `pair_of`.
    """
    values = [names[label] for label in labels.labels]
    before, after = (_nearest(point.mask, values, at, where) for at, point in enumerate(points))
    return labels.joined(before, after)


def _nearest(mask: Volume, values: Sequence[int], at: int, where: Alignment) -> Mask:
    """Return the number of the label, from 1, that has the largest share of each voxel of the grid; 0 where none has."""
    result = np.zeros(where.shape, np.uint8)
    left = np.ones(where.shape, np.float32)
    best = np.zeros(where.shape, np.float32)
    for number, value in enumerate(values, start=1):
        own = mask.with_voxels((mask.voxels[:1] == value).astype(np.float32))
        share = where.sampled(at, own, where.affine, where.shape)
        result[share > best] = number
        np.maximum(best, share, out=best)
        left -= share
    result[left >= best] = 0
    return result
