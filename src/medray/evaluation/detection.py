"""Boxes against boxes: which predictions hit, and what that means over many scans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FROC_RATES", "Matches", "average_precision", "box_iou", "froc", "match_boxes", "sensitivity_at"]

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a scan at which LUNA16 averages sensitivities (Setio et al., Med Image Anal 42 (2017) 1-13)."""
Boxes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matches:
    """One scan's predictions.

    Attributes:
        scores: Of each prediction, in any order.
        hits: Whether each is the first to find a true box; a second box on the same one is a false positive.
        truths: How many true boxes there are.
    """

    scores: tuple[float, ...]
    hits: tuple[bool, ...]
    truths: int


def box_iou(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Return the overlap of axis-aligned boxes over their union.

    Args:
        first: ``(N, 2, 3)``, lower and upper corners in mm.
        second: ``(M, 2, 3)``.

    Returns:
        ``(N, M)``, 0 to 1.
    """
    low = np.maximum(first[:, None, 0], second[None, :, 0])
    high = np.minimum(first[:, None, 1], second[None, :, 1])
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    sizes = [np.prod(boxes[:, 1] - boxes[:, 0], axis=-1) for boxes in (first, second)]
    union = sizes[0][:, None] + sizes[1][None] - both
    ratio: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return ratio


def match_boxes(predicted: Boxes, scores: Sequence[float], truth: Boxes, *, iou: float = 0.1) -> Matches:
    """Give each true box the best-scored prediction that overlaps it enough.

    Args:
        predicted: ``(N, 2, 3)``, lower and upper corners in mm.
        scores: ``(N,)``.
        truth: ``(M, 2, 3)``.
        iou: The least overlap of a hit; 0.1 is usual in 3-D (Baumgartner et al., MICCAI 2021, nnDetection).
    """
    overlaps = box_iou(predicted, truth)
    hits, free = [False] * len(predicted), np.ones(len(truth), bool)
    for index in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        open_overlaps = np.where(free, overlaps[index], 0.0)
        if len(truth) and open_overlaps.max() >= iou:
            free[int(open_overlaps.argmax())] = False
            hits[int(index)] = True
    return Matches(tuple(float(score) for score in scores), tuple(hits), len(truth))


def sensitivity_at(scans: Sequence[Matches], rate: float) -> float:
    """Return the sensitivity at the lowest threshold with at most ``rate`` false positives a scan; NaN without true boxes.

    Predictions of equal score come above a threshold together.
    """
    truths = sum(scan.truths for scan in scans)
    if not truths:
        return math.nan
    scores, hits = _pooled(scans)
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.array([], int)
    found, wrong = np.cumsum(hits)[last], np.cumsum(~hits)[last]
    allowed = found[wrong <= rate * len(scans) + 1e-9]
    return float(allowed.max() / truths) if allowed.size else 0.0


def froc(scans: Sequence[Matches]) -> float:
    """Return the mean sensitivity over `FROC_RATES`; NaN without true boxes."""
    return float(np.mean([sensitivity_at(scans, rate) for rate in FROC_RATES]))


def average_precision(scans: Sequence[Matches]) -> float:
    """Return the area under precision over recall, precision made monotone (Everingham et al., IJCV 88 (2010) 303-338).

    NaN without true boxes. The area is exact, not sampled at 11 or 101 recalls.
    """
    truths = sum(scan.truths for scan in scans)
    if not truths:
        return math.nan
    _, hits = _pooled(scans)
    if not len(hits):
        return 0.0
    recall = np.cumsum(hits) / truths
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * best))


def _pooled(scans: Sequence[Matches]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return all scans' scores, highest first, and their hits; a false positive comes before a hit of the same score."""
    scores = np.array([score for scan in scans for score in scan.scores], np.float64)
    hits = np.array([hit for scan in scans for hit in scan.hits], bool)
    order = np.lexsort((hits, -scores))
    return scores[order], hits[order]
