"""A network over a volume larger than its patch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from medray.preprocessing.patches import Aggregator, crop, tile_starts
from medray.preprocessing.plan import Plan

__all__ = ["slide"]


def slide(
    run: Callable[[torch.Tensor], torch.Tensor], image: NDArray[np.float32], plan: Plan, device: torch.device
) -> NDArray[np.float32]:
    """Run a network on overlapping patches and blend what it says.

    Args:
        run: ``(1, C, *patch)`` to ``(1, D, *patch)`` on ``device``.
        image: ``(C, I, J, K)``.
        plan: For patch and overlap.
        device: Where patches go and results are blended.

    Returns:
        ``(D, I, J, K)``.
    """
    shape = (image.shape[1], image.shape[2], image.shape[3])
    aggregator = None
    for start in tile_starts(shape, plan.patch, overlap=plan.overlap):
        patch = np.ascontiguousarray(crop(image, start, plan.patch), dtype=np.float32)
        answer = run(torch.from_numpy(patch)[None].to(device))[0]
        aggregator = aggregator or Aggregator(len(answer), shape, plan.patch, device)
        aggregator.add(answer, start)
    assert aggregator is not None, "a volume has a first patch"  # noqa: S101
    blended: NDArray[np.float32] = aggregator.result().cpu().numpy()
    return blended
