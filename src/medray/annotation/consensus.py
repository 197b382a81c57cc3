"""One answer of several experts': masks by majority or STAPLE, findings by majority, boxes and points by who meets whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as all the world calls it
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, generate_binary_structure

from medray.types import Mask

__all__ = ["Estimate", "majority", "majority_of_findings", "meeting", "staple"]

Place = Mapping[str, Any]
"""A box or a point: its ``label`` and its coordinates."""
NEIGHBOURS = generate_binary_structure(3, 1)
CONVERGED = 100
"""Iterations after which STAPLE ends where it hasn't come to rest; it does so after ten to thirty."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What STAPLE says.

    Attributes:
        mask: The truth as it most probably is.
        sensitivity: Of each expert by label: the share of what has it that they gave it. NaN where nobody did.
        specificity: The share of what doesn't have it that they left without, within what was looked at.
    """

    mask: Mask
    sensitivity: Mapping[str, tuple[float, ...]]
    specificity: Mapping[str, tuple[float, ...]]


def majority(masks: Sequence[Mask], values: Sequence[int]) -> Mask:
    """Give each voxel the value that most experts give it; of those with equally many, background, then the lowest.

    Args:
        masks: ``(I, J, K)``, on one grid.
        values: Those that may be given, without background.
    """
    best = sum((mask == 0).astype(np.int16) for mask in masks)
    chosen = np.zeros_like(masks[0])
    for value in sorted(values):
        votes = sum((mask == value).astype(np.int16) for mask in masks)
        chosen[votes > best] = value
        best = np.maximum(best, votes)
    return chosen


def staple(masks: Sequence[Mask], values: Mapping[str, int]) -> Estimate:
    """Estimate the truth and how good each expert is, each label for itself (Warfield et al., IEEE TMI 23 (2004) 903-921).

    Only voxels that anybody drew, and their neighbours, are looked at: how much background a scan has would otherwise decide
    on the outcome, for the prior is the label's share of what is looked at. A voxel gets the label that is the most probable,
    where that is more probable than not.

    Args:
        masks: ``(I, J, K)`` of two experts or more, on one grid; of one, it is the estimate.
        values: What they mean: name to value.
    """
    if len(masks) == 1:
        return Estimate(masks[0].copy(), dict.fromkeys(values, (1.0,)), dict.fromkeys(values, (1.0,)))
    chosen, best = np.zeros_like(masks[0]), np.full(masks[0].shape, 0.5, np.float32)
    sensitivity, specificity = {}, {}
    for name, value in values.items():
        drawn: NDArray[np.bool_] = np.stack([mask == value for mask in masks])
        near = binary_dilation(np.logical_or.reduce(drawn), NEIGHBOURS)
        if not near.any():
            sensitivity[name] = specificity[name] = (float("nan"),) * len(masks)
            continue
        probable, sensitivity[name], specificity[name] = _one_label(drawn[:, near])
        won = probable > best[near]
        chosen[near] = np.where(won, value, chosen[near])
        best[near] = np.where(won, probable, best[near])
    return Estimate(chosen, sensitivity, specificity)


def majority_of_findings(said: Sequence[Mapping[str, str]], names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return for each finding the choice of most experts; of those with equally many, the one nearest their median.

    Args:
        said: What each expert says: name to choice.
        names: Name to its choices in their order.
    """
    return {name: _most(sorted(choices.index(one[name]) for one in said), choices) for name, choices in names.items()}


def meeting(found: Sequence[Sequence[Place]], near: Callable[[Place, Place], float]) -> list[list[Place]]:
    """Return what more than half of the experts found at the same place: of each such place, theirs.

    Args:
        found: Of each expert boxes or points, each with its ``label``.
        near: Says of two of them, of one label, how well they meet: 0 to 1, 0 for not at all.
    """
    groups: list[dict[int, Place]] = []
    for expert, items in enumerate(found):
        for item in items:
            score, group = max(
                ((_fit(item, group, expert, near), place) for place, group in enumerate(groups)), default=(0.0, -1)
            )
            if score > 0:
                groups[group][expert] = item
            else:
                groups.append({expert: item})
    return [list(group.values()) for group in groups if 2 * len(group) > len(found)]


def _fit(item: Place, group: Mapping[int, Place], expert: int, near: Callable[[Place, Place], float]) -> float:
    """Return how well something meets a group: an expert has one place in each, and all must be near."""
    if expert in group or any(one["label"] != item["label"] for one in group.values()):
        return 0.0
    return min(near(item, one) for one in group.values())


def _most(ordered: Sequence[int], choices: Sequence[str]) -> str:
    counts = Counter(ordered)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return choices[min(counts, key=lambda place: (-counts[place], abs(place - middle), place))]


def _one_label(drawn: NDArray[np.bool_]) -> tuple[NDArray[np.float32], tuple[float, ...], tuple[float, ...]]:
    """Run STAPLE on ``(experts, voxels)``: how probable the label is in each voxel, and each expert's two shares."""
    if (drawn == drawn[0]).all():
        return drawn[0].astype(np.float32), (1.0,) * len(drawn), (1.0,) * len(drawn)
    estimate = sitk.STAPLEImageFilter()
    estimate.SetForegroundValue(1)
    estimate.SetMaximumIterations(CONVERGED)
    row = [sitk.GetImageFromArray(one.astype(np.uint8)[np.newaxis]) for one in drawn]  # where voxels lie means nothing to it
    probable: NDArray[np.float32] = sitk.GetArrayFromImage(estimate.Execute(row))[0].astype(np.float32)
    return probable, tuple(estimate.GetSensitivity()), tuple(estimate.GetSpecificity())
