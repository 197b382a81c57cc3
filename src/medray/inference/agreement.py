"""How far two models agree on one image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medray.evaluation.detection import box_iou
from medray.evaluation.overlap import overlap
from medray.imaging.boxes import Box, corners
from medray.tasks.answer import Answer

__all__ = ["agreement"]

HIT = 0.1
"""The least overlap of two boxes that mean the same: see `medray.evaluation.detection.match_boxes`."""


def agreement(one: Answer, other: Answer, values: Mapping[str, int]) -> dict[str, float]:
    """Return for each target how far two answers agree, 0 to 1; nothing of a target that neither has found.

    Of masks it is Dice; of probabilities 1 less their difference; of boxes twice the pairs, of all boxes. That neither has
    found something says little where most images have nothing of the kind, and would hide that one of them never finds it.

    Args:
        one: An answer.
        other: Another one to the same image.
        values: Target to its value in the mask; empty where there is none.
    """
    if one.mask is not None and other.mask is not None:
        return _masks(one.mask, other.mask, values)
    if one.probabilities:
        both = one.probabilities.keys() & other.probabilities.keys()
        return {name: 1 - abs(one.probabilities[name] - other.probabilities[name]) for name in sorted(both)}
    labels = sorted({box.label for box in (*one.boxes, *other.boxes)})
    return {label: _boxes(*([box for box in side.boxes if box.label == label] for side in (one, other))) for label in labels}


def _masks(one: np.ndarray, other: np.ndarray, values: Mapping[str, int]) -> dict[str, float]:
    if one.shape != other.shape:
        return dict.fromkeys(values, 0.0)
    found = {}
    for channel, (name, value) in enumerate(values.items()):
        at = channel if len(one) > 1 else 0
        dice = overlap(one[at] == value, other[at] == value).dice
        if not math.isnan(dice):
            found[name] = dice
    return found


def _boxes(some: Sequence[Box], others: Sequence[Box]) -> float:
    if not some or not others:
        return float(len(some) == len(others))
    overlaps, pairs = box_iou(corners(some), corners(others)), 0
    while overlaps.max() >= HIT:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        overlaps[row, :] = overlaps[:, column] = 0
        pairs += 1
    return 2 * pairs / (len(some) + len(others))
