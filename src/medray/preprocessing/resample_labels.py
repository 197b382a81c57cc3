"""Label maps onto another grid.

A label map is resampled as its labels' indicators would be, linearly, and the largest share wins. Most voxels of the result lie
among neighbours of one label and need no arithmetic: only along borders are shares computed, from eight neighbours each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medray.preprocessing.resample import resample
from medray.types import Mask, Shape

__all__ = ["Line", "corners_of", "extremes", "line_of", "resample_labels"]

TIE = 1e-6
"""Shares nearer to each other than this are equal, and the lower label wins."""

Indices = NDArray[np.int64]
Weights = NDArray[np.float32]


def resample_labels(mask: Mask, shape: Shape, *, method: Literal["linear", "nearest"] = "linear") -> Mask:
    """Resample a label map to ``shape`` over the same field of view.

    Args:
        mask: ``(I, J, K)`` of any memory order.
        shape: Voxels along I, J, K of the result.
        method: ``"linear"``: each label's indicator linearly, then the largest wins; ties go to the lower value.
            ``"nearest"``: the value of the nearest voxel.
    """
    if mask.shape == shape:
        return mask
    if method == "nearest":
        nearest: Mask = resample(mask[np.newaxis], shape, order=0)[0].astype(np.uint8)
        return nearest
    axes = sorted(range(3), key=lambda axis: -abs(mask.strides[axis]))
    packed = np.ascontiguousarray(mask.transpose(axes))
    lines = [line_of(size, shape[axis]) for size, axis in zip(packed.shape, axes, strict=True)]
    lowest, highest = extremes(packed, lines)
    border = np.flatnonzero((lowest != highest).ravel())
    result = lowest.copy()
    result.ravel()[border] = _decided(packed, lines, border, lowest.ravel()[border], highest.ravel()[border])
    return result.transpose([axes.index(axis) for axis in range(3)])


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One axis: each new voxel's two neighbours, and the second one's weight."""

    first: Indices
    second: Indices
    weight: Weights

    def part(self, start: int, stop: int) -> Line:
        """Return the new voxels from ``start`` to before ``stop``."""
        return Line(self.first[start:stop], self.second[start:stop], self.weight[start:stop])

    def shifted(self, low: int) -> Line:
        """Return the same of an axis whose first ``low`` voxels are left out."""
        return Line(self.first - low, self.second - low, self.weight)


def line_of(size: int, new_size: int) -> Line:
    """Return where the voxels of an axis of ``new_size`` lie on one of ``size`` over the same field of view."""
    places = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    first = np.minimum(places.astype(np.int64), max(size - 2, 0))
    return Line(first, np.minimum(first + 1, size - 1), (places - first).astype(np.float32))


def extremes(packed: Mask, lines: list[Line]) -> tuple[Mask, Mask]:
    """Return the lowest and the highest label among each new voxel's eight neighbours."""
    lowest = highest = packed
    for axis, line in enumerate(lines):
        low = [np.take(lowest, places, axis=axis) for places in (line.first, line.second)]
        high = low if lowest is highest else [np.take(highest, places, axis=axis) for places in (line.first, line.second)]
        lowest, highest = np.minimum(*low), np.maximum(*high)
    return lowest, highest


def _decided(packed: Mask, lines: list[Line], border: Indices, lowest: Mask, highest: Mask) -> Mask:
    """Return the winning label of each border voxel."""
    places, weights = corners_of(packed.shape, lines, border)
    neighbours = packed.ravel()[places]
    share = np.zeros(len(border), np.float32)
    several = np.zeros(len(border), np.bool_)
    for label, weight in zip(neighbours, weights, strict=True):
        top = label == highest
        share += np.where(top, weight, np.float32(0))
        several |= ~top & (label != lowest)
    winner = np.where(share > 0.5 + TIE, highest, lowest)
    crowded = np.flatnonzero(several)
    if len(crowded):
        winner[crowded] = _largest(neighbours[:, crowded], weights[:, crowded])
    return winner


def corners_of(size: tuple[int, ...], lines: list[Line], border: Indices) -> tuple[Indices, Weights]:
    """Return the places ``(8, N)`` of new voxels' neighbours in a flat array of ``size``, and their weights.

    Args:
        size: I, J, K of what is resampled.
        lines: Its axes.
        border: The new voxels, numbered as in a flat result.
    """
    numbers = np.unravel_index(border, [len(line.first) for line in lines])
    pairs = []
    for line, stride, number in zip(lines, (size[1] * size[2], size[2], 1), numbers, strict=True):
        weight = line.weight[number]
        pairs.append((((line.first * stride)[number], 1 - weight), ((line.second * stride)[number], weight)))
    places, weights = np.empty((8, len(border)), np.int64), np.empty((8, len(border)), np.float32)
    for turn, ((i, wi), (j, wj), (k, wk)) in enumerate(product(*pairs)):
        places[turn] = i + j + k
        weights[turn] = wi * wj * wk
    return places, weights


def _largest(labels: Mask, weights: Weights) -> Mask:
    best = np.full(labels.shape[1], -1.0, np.float32)
    winner = np.zeros(labels.shape[1], np.uint8)
    for value in np.unique(labels):
        share = np.where(labels == value, weights, np.float32(0)).sum(axis=0)
        wins = share > best + TIE
        best[wins] = share[wins]
        winner[wins] = value
    return winner
