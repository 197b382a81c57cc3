"""Two scans of a patient as one image: what a model of progression sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medray.errors import InputError
from medray.imaging.transitions import Transitions
from medray.imaging.volume import Volume
from medray.progression.align import Alignment, align
from medray.progression.visit import Visit, years_between
from medray.types import Mask

__all__ = ["ScanPair", "label_map_of_pair", "pair_of", "pairs_in_turn"]


@dataclass(frozen=True, slots=True, eq=False)
class ScanPair:
    """An earlier and a later scan on a grid midway between them.

    Attributes:
        image: Of two channels, the earlier scan's first, 0 where a scan shows nothing; its meta says ``years``.
        alignment: How the scans lie to each other.
    """

    image: Volume
    alignment: Alignment


def pair_of(earlier: Visit, later: Visit) -> ScanPair:
    """Bring two scans of a patient onto one grid.

    Raises:
        InputError: If they aren't in this order, or their modalities differ.
        ImageError: If they can't be aligned.
    """
    years = years_between(earlier, later)
    kinds = sorted({visit.image.meta.get("modality", "OT") for visit in (earlier, later)})
    if years <= 0:
        raise InputError(f"{earlier.name} and {later.name} are of one day, or in the wrong order: give each scan its own day")
    if len(kinds) > 1:
        raise InputError(f"{earlier.name} and {later.name} are of {' and '.join(kinds)}: only one modality can be compared")
    found = align([earlier.image, later.image], [earlier.name, later.name])
    channels = [
        found.sampled(at, visit.image.with_voxels(visit.image.voxels[:1]), found.affine, found.shape)
        for at, visit in enumerate((earlier, later))
    ]
    return ScanPair(Volume(np.stack(channels), found.affine, {"modality": kinds[0], "years": f"{years:.6f}"}), found)


def pairs_in_turn(visits: Sequence[Visit]) -> tuple[list[Visit], list[ScanPair]]:
    """Sort scans by their days, and pair each with the next.

    Raises:
        InputError: If there are fewer than two, two are of one day, or their modalities differ.
        ImageError: If two can't be aligned.
    """
    if len(visits) < 2:
        raise InputError(f"change needs two time points or more; there is {len(visits)}")
    ordered = sorted(visits, key=lambda visit: visit.day)
    return ordered, [pair_of(earlier, later) for earlier, later in pairwise(ordered)]


def label_map_of_pair(masks: Sequence[Volume], names: Mapping[str, int], labels: Transitions, where: Alignment) -> Mask:
    """Return the label map of a pair, ``(I, J, K)`` on its grid.

    Args:
        masks: Of the earlier scan and the later one.
        names: Of the masks' labels, and their values.
        labels: Those that are followed; all others are background.
        where: From `pair_of`.
    """
    values = [names[label] for label in labels.labels]
    before, after = (_nearest(mask, values, at, where) for at, mask in enumerate(masks))
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
