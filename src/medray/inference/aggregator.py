"""Putting patches together again: the inverse of cutting them out (`medray.preprocessing.patches`)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from medray.preprocessing.patches import Starts
from medray.types import Shape

__all__ = ["Aggregator", "importance"]


@lru_cache(maxsize=8)
def importance(patch: Shape) -> torch.Tensor:
    """Return a Gaussian weight ``(I, J, K)`` for blending, sigma an eighth of the patch (Isensee et al. 2021)."""
    lines = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in patch]
    weight = np.einsum("i,j,k->ijk", *lines)
    return torch.from_numpy(np.maximum(weight, 1e-3).astype(np.float32))


class Aggregator:
    """Blend overlapping patches into a volume.

    Args:
        channels: Channels of a patch.
        shape: The volume's I, J, K.
        patch: The patches' I, J, K.
        device: Where the volume is built up.
    """

    def __init__(self, channels: int, shape: Shape, patch: Shape, device: torch.device) -> None:
        self._patch = patch
        self._weight = importance(patch).to(device)
        self._sum = torch.zeros(channels, *shape, device=device)
        self._weights = torch.zeros(*shape, device=device)

    def add(self, values: torch.Tensor, start: Starts) -> None:
        """Add one patch ``(C, *patch)`` whose first voxel lies at ``start``; what sticks out is dropped."""
        spans = [slice(begin, begin + length) for begin, length in zip(start, self._patch, strict=True)]
        target = self._sum[(slice(None), *spans)]
        inside = tuple(slice(0, n) for n in target.shape[1:])
        weight = self._weight[inside]
        target += values[(slice(None), *inside)] * weight
        self._weights[tuple(spans)] += weight

    def result(self) -> torch.Tensor:
        """Return the weighted mean ``(C, I, J, K)``; every voxel must have been covered."""
        return self._sum / self._weights
