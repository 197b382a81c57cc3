"""A network over a volume larger than its patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medray.inference.aggregator import Aggregator
from medray.preprocessing.patches import crop, tile_starts
from medray.preprocessing.plan import Plan
from medray.types import Shape

__all__ = ["slide", "slide_all", "window_of"]

MAX_WINDOW_VOXELS = 4_500_000
"""Of a window: a head at 1.2 mm in one piece, and less than 4 GB of activations in any network of `medray.models`."""


def slide_all(
    run: Callable[[torch.Tensor], torch.Tensor], images: Sequence[NDArray[np.float32]], plan: Plan, device: torch.device
) -> list[NDArray[np.float32]]:
    """Run a network on several images: those that are one window each, and all of one size, in one go; else one by one.

    Args:
        run: ``(N, C, *window)`` to ``(N, D, *window)`` on ``device``.
        images: ``(C, I, J, K)`` each.
        plan: For patch and overlap.
        device: Where windows go.

    Returns:
        ``(D, I, J, K)`` of each.
    """
    shapes = {(image.shape[1], image.shape[2], image.shape[3]) for image in images}
    [shape, *others] = shapes
    window = window_of(shape, plan)
    if len(images) == 1 or others or len(tile_starts(shape, window, overlap=plan.overlap)) > 1:
        return [slide(run, image, plan, device) for image in images]
    patches = np.stack([crop(image, (0, 0, 0), window) for image in images]).astype(np.float32, copy=False)
    answers = run(torch.from_numpy(patches).to(device))[:, :, : shape[0], : shape[1], : shape[2]]
    return list(answers.contiguous().cpu().numpy())


def slide(
    run: Callable[[torch.Tensor], torch.Tensor], image: NDArray[np.float32], plan: Plan, device: torch.device
) -> NDArray[np.float32]:
    """Run a network on overlapping windows and blend what it says.

    Args:
        run: ``(1, C, *window)`` to ``(1, D, *window)`` on ``device``.
        image: ``(C, I, J, K)``.
        plan: For patch and overlap.
        device: Where patches go and results are blended.

    Returns:
        ``(D, I, J, K)``.
    """
    shape = (image.shape[1], image.shape[2], image.shape[3])
    window, aggregator = window_of(shape, plan), None
    starts = tile_starts(shape, window, overlap=plan.overlap)
    for start in starts:
        patch = np.ascontiguousarray(crop(image, start, window), dtype=np.float32)
        answer = run(torch.from_numpy(patch)[None].to(device))[0]
        if len(starts) == 1:
            whole: NDArray[np.float32] = answer[:, : shape[0], : shape[1], : shape[2]].contiguous().cpu().numpy()
            return whole
        aggregator = aggregator or Aggregator(len(answer), shape, window, device)
        aggregator.add(answer, start)
    assert aggregator is not None, "a volume has a first patch"  # noqa: S101
    blended: NDArray[np.float32] = aggregator.result().cpu().numpy()
    return blended


def window_of(shape: Shape, plan: Plan) -> Shape:
    """Return how much of an image a network looks at in one go: all of it where it can, else a patch.

    A convolutional network with batch norm says the same of a place whatever lies farther off, so that a window may be larger
    than the patches that it learned from: no voxel is looked at twice, and none lies at a patch's edge.
    """
    if not plan.network.extends:
        return plan.patch
    divisor, flat = plan.network.divisor, plan.patch[2] == 1
    sides = [
        max(patch, 1 if flat and axis == 2 else -(-side // divisor) * divisor)
        for axis, (side, patch) in enumerate(zip(shape, plan.patch, strict=True))
    ]
    while np.prod(sides) > MAX_WINDOW_VOXELS:
        longest = max((axis for axis in range(3) if sides[axis] > plan.patch[axis]), key=lambda axis: sides[axis], default=None)
        if longest is None:
            break
        sides[longest] = max(plan.patch[longest], -(-sides[longest] // 2 // divisor) * divisor)
    i, j, k = sides
    return i, j, k
