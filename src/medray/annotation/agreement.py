"""How far experts agree: on what they drew, and on what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medray.evaluation.overlap import overlap
from medray.evaluation.surface import surface_distance
from medray.types import Mask, Triple

__all__ = ["Pair", "cohens_kappa", "disagreement", "fleiss_kappa", "krippendorffs_alpha", "pairs_of"]

Scale = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, slots=True)
class Pair:
    """How far two experts' masks of one label agree.

    Attributes:
        first: Index of one expert.
        second: Index of the other.
        dice: See `medray.evaluation.overlap`; 1 where neither drew it, so that to leave out the same is to agree.
        hd95_mm: See `medray.evaluation.surface`; NaN where neither drew it, infinite where one did.
    """

    first: int
    second: int
    dice: float
    hd95_mm: float


def pairs_of(masks: Sequence[NDArray[np.bool_]], spacing_mm: Triple) -> list[Pair]:
    """Compare each two experts' masks ``(I, J, K)`` of one label."""
    found = []
    for first, second in combinations(range(len(masks)), 2):
        one, other = masks[first], masks[second]
        if not one.any() and not other.any():
            found.append(Pair(first, second, 1.0, math.nan))
            continue
        dice = overlap(one, other).dice
        found.append(Pair(first, second, dice, surface_distance(one, other, spacing_mm).hd95_mm))
    return found


def disagreement(masks: Sequence[Mask]) -> NDArray[np.float32]:
    """Return where experts differ: of each voxel, the share of pairs of experts who give it different values, 0 to 1."""
    pairs = len(masks) * (len(masks) - 1) / 2
    differ = np.zeros(masks[0].shape, np.float32)
    for one, other in combinations(masks, 2):
        differ += one != other
    return differ / np.float32(max(1.0, pairs))


def cohens_kappa(first: Sequence[int], second: Sequence[int], choices: int, *, scale: Scale = "nominal") -> float:
    """Return how far two experts agree beyond chance (Cohen, Educ Psychol Meas 20 (1960) 37-46).

    On an ordinal scale by linear, on an interval scale by quadratic weights (Cohen, Psychol Bull 70 (1968) 213-220).

    Args:
        first: One expert's choices, by number, of each case.
        second: The other's, of the same cases.
        choices: How many there are to choose from.
        scale: How far two choices differ.

    Returns:
        1 for full agreement, 0 for that of chance; NaN where both always say the same one thing, or there is no case.
    """
    table = np.zeros((choices, choices))
    np.add.at(table, (np.asarray(first, int), np.asarray(second, int)), 1)
    table /= max(1.0, table.sum())
    apart = _kappa_weights(choices, scale)
    by_chance = float((apart * np.outer(table.sum(axis=1), table.sum(axis=0))).sum())
    return 1 - float((apart * table).sum()) / by_chance if by_chance else float("nan")


def fleiss_kappa(counts: NDArray[np.int_]) -> float:
    """Return how far several experts agree beyond chance (Fleiss, Psychol Bull 76 (1971) 378-382).

    Args:
        counts: ``(cases, choices)``: how many experts made which choice; as many of each case, two or more.

    Returns:
        1 for full agreement, 0 for that of chance; NaN where all always say the same one thing, or there is no case.

    Raises:
        ValueError: If the number of experts differs from case to case.
    """
    raters = counts.sum(axis=1)
    if not len(counts):
        return float("nan")
    if len(set(raters.tolist())) > 1 or raters[0] < 2:
        raise ValueError("Fleiss' kappa needs as many experts of each case, two or more: use Krippendorff's alpha")
    experts = float(raters[0])
    agreed = ((counts**2).sum(axis=1) - experts) / (experts * (experts - 1))
    by_chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return (float(agreed.mean()) - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")


def krippendorffs_alpha(said: Sequence[Sequence[int | None]], choices: int, *, scale: Scale = "nominal") -> float:
    """Return how far any number of experts agree who need not have seen all cases.

    Krippendorff, Content Analysis, 4th ed. (2018), chapter 12: one less the disagreement observed by that expected.

    Args:
        said: Of each case, each expert's choice by number; None where they haven't seen it.
        choices: How many there are to choose from.
        scale: How far two choices differ.

    Returns:
        1 for full agreement, 0 for that of chance; NaN where all say the same one thing, or no two have seen the same case.
    """
    together = np.zeros((choices, choices))
    for case in said:
        known = [choice for choice in case if choice is not None]
        if len(known) < 2:
            continue
        counts = np.bincount(known, minlength=choices).astype(float)
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(known) - 1)
    totals = together.sum(axis=1)
    apart = _alpha_distances(totals, scale)
    expected = float((apart * (np.outer(totals, totals) - np.diag(totals))).sum())
    return 1 - (totals.sum() - 1) * float((apart * together).sum()) / expected if expected else float("nan")


def _kappa_weights(choices: int, scale: Scale) -> NDArray[np.float64]:
    places = np.arange(choices)
    steps: NDArray[np.float64] = np.abs(places[:, None] - places[None, :]).astype(float)
    if scale == "nominal":
        steps = (steps > 0).astype(float)
    return steps**2 if scale == "interval" else steps


def _alpha_distances(totals: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Return how far choices lie apart; on an ordinal scale by how often those between them are made."""
    places = np.arange(len(totals))
    if scale != "ordinal":
        return _kappa_weights(len(totals), scale)
    below: NDArray[np.float64] = np.cumsum(totals) - totals / 2  # to the middle of each choice
    apart: NDArray[np.float64] = np.where(places[:, None] == places[None, :], 0.0, (below[:, None] - below[None, :]) ** 2)
    return apart
