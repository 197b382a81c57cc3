"""Heat: how near each voxel is to the middle of a thing, and what it costs to say something else.

Zhou et al., "Objects as Points", arXiv:1904.07850, section 3, in three dimensions and without strides: every middle counts as
much as all that isn't one, however small the thing is. A loss a voxel would teach a network to outline what is large.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from torch.nn import functional

from medray.imaging.boxes import Box, triple

__all__ = ["PRIOR", "boxes_of", "coarser", "focal_loss", "heat_of", "warmth"]

PRIOR = 4.0
"""Subtracted from logits: before it has learned anything, a network says 2 %, not 50 % (Lin et al., ICCV 2017, §4.1)."""
SHARPNESS = 6.0
"""A box's side in deviations of its heat: it fades towards the sides."""


def boxes_of(mask: NDArray[np.bool_], name: str) -> list[Box]:
    """Return the box around each piece of a binary mask ``(I, J, K)`` whose voxels share faces, edges or corners."""
    numbered, _ = label(mask, structure=np.ones((3, 3, 3)))
    return [
        Box(name, triple([part.start - 0.5 for part in span]), triple([part.stop - 0.5 for part in span]))
        for span in find_objects(numbered)
    ]


def warmth(box: Box, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return heat on a grid that is 1 at the voxel nearest to a box's middle and fades towards its sides."""
    lines = []
    for low, high, size in zip(box.low, box.high, shape, strict=True):
        middle = np.floor((low + high) / 2 + 0.5)
        lines.append(np.exp(-0.5 * ((np.arange(size) - middle) / max((high - low) / SHARPNESS, 0.7)) ** 2))
    heat: NDArray[np.float32] = np.einsum("i,j,k->ijk", *lines).astype(np.float32)
    return heat


def heat_of(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the heat of all pieces of a mask, on its grid."""
    heat = np.zeros(mask.shape, np.float32)
    for box in boxes_of(mask, ""):
        np.maximum(heat, warmth(box, mask.shape), out=heat)
    return heat


def coarser(logits: torch.Tensor, heat: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring both to the grid that a coarse network answers on: a place is as warm as its warmest voxel.

    Else the one voxel of a middle would stand against hundreds around it that get the same answer.

    Args:
        logits: ``(B, C, I, J, K)``, each ``stride`` voxels along an axis alike.
        heat: The same shape.
        stride: See `medray.models.spec.NetworkSpec.stride`.
    """
    if stride == 1:
        return logits, heat
    steps = [stride if side > 1 else 1 for side in heat.shape[2:]]
    i, j, k = steps
    return logits[:, :, ::i, ::j, ::k], functional.max_pool3d(heat, steps)


def focal_loss(logits: torch.Tensor, heat: torch.Tensor, weights: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Return the focal loss for each middle, less strict near one.

    Args:
        logits: ``(B, C, I, J, K)``, of a voxel being a middle.
        heat: The same shape, 0 to 1; 1 at middles.
        weights: Of targets, as ``(C, 1, 1, 1)``.
    """
    said, middles = logits.sigmoid(), (heat == 1).float()
    hits = -functional.logsigmoid(logits) * (1 - said) ** 2 * middles
    misses = -functional.logsigmoid(-logits) * said**2 * (1 - heat) ** 4
    return ((hits + misses) * weights).sum() / middles.sum().clamp(min=1)
