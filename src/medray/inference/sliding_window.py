"""A network over a volume larger than its patch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medray.inference.aggregator import Aggregator
from medray.preprocessing.blocks import Block, Blocks
from medray.preprocessing.patches import crop, tile_starts
from medray.preprocessing.plan import Plan
from medray.types import Shape

__all__ = ["slide", "slide_all", "window_of"]

Run = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""Windows ``(N, C, *window)`` to what is said of them ``(N, D, *window)`` and the deepest layer's means ``(N, F)``."""
MAX_WINDOW_VOXELS = 4_500_000
"""Of a window: a head at 1.2 mm in one piece, and less than 4 GB of activations in any network of `medray.models`."""
MAX_ANSWER_VALUES = 60_000_000
"""Of what a network says of a window, all targets together: 240 MB, and as much again for its softmax."""


def slide_all(
    run: Run, images: Sequence[NDArray[np.float32]], plan: Plan, device: torch.device
) -> Iterator[tuple[int, Blocks]]:
    """Run a network on several images: those that are one window each, and all of one size, in one go; else one by one.

    Args:
        run: Runs windows on ``device``.
        images: ``(C, I, J, K)`` each.
        plan: For patch and overlap.
        device: Where windows go.

    Yields:
        Each image's number and its map; to be gone through before the next is asked for.
    """
    shapes = [_shape(image) for image in images]
    window = window_of(shapes[0], plan)
    if len(set(shapes)) > 1 or len(tile_starts(shapes[0], window, overlap=plan.overlap)) > 1:
        yield from ((number, slide(run, image, plan, device)) for number, image in enumerate(images))
        return
    patches = np.stack([crop(image, (0, 0, 0), window) for image in images]).astype(np.float32, copy=False)
    i, j, k = shapes[0]
    said, found = run(torch.from_numpy(patches).to(device))
    answers = said[:, :, :i, :j, :k].contiguous().cpu().numpy()
    yield from ((number, Blocks.of(answer, _rows(found, number))) for number, answer in enumerate(answers))


def slide(run: Run, image: NDArray[np.float32], plan: Plan, device: torch.device) -> Blocks:
    """Run a network on overlapping windows, one at a time, and blend what it says.

    Args:
        run: Runs windows on ``device``.
        image: ``(C, I, J, K)``.
        plan: For patch and overlap.
        device: Where windows go and are blended.

    Returns:
        The map ``(D, I, J, K)``; the network runs as its blocks are asked for.
    """
    shape = _shape(image)
    window = window_of(shape, plan)
    starts = tile_starts(shape, window, overlap=plan.overlap)

    embeddings: list[NDArray[np.float32]] = []

    def blocks() -> Iterator[Block]:
        aggregator = Aggregator(shape, starts, window, device)
        for start in starts:
            patch = np.ascontiguousarray(crop(image, start, window), dtype=np.float32)
            said, found = run(torch.from_numpy(patch)[None].to(device))
            embeddings.extend(_rows(found, 0))
            yield from aggregator.add(said[0], start)

    return Blocks(shape, blocks(), embeddings)


def _rows(found: torch.Tensor | None, number: int) -> list[NDArray[np.float32]]:
    """Return what the deepest layer made of one window, if anything."""
    return [] if found is None else [found[number].float().cpu().numpy()]


def _shape(image: NDArray[np.float32]) -> Shape:
    return image.shape[1], image.shape[2], image.shape[3]


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
    most = min(MAX_WINDOW_VOXELS, MAX_ANSWER_VALUES // (len(plan.targets) + 1))
    while np.prod(sides) > most:
        longest = max((axis for axis in range(3) if sides[axis] > plan.patch[axis]), key=lambda axis: sides[axis], default=None)
        if longest is None:
            break
        sides[longest] = max(plan.patch[longest], -(-sides[longest] // 2 // divisor) * divisor)
    i, j, k = sides
    return i, j, k
