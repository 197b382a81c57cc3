"""Random changes to a training patch: drawn first, as a record, then applied.

Drawing and applying are separate, so that a run can be replayed and a test can ask what one change does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

__all__ = ["Augmentation", "augment", "draw_augmentation"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to one patch.

    Attributes:
        flips: Whether I, J, K are mirrored.
        gain: Factor on intensities.
        shift: Added to intensities, in deviations.
        gamma: Exponent on intensities rescaled to 0…1; 1 does nothing.
        noise: Deviation of added Gaussian noise.
        seed: For the noise.
        matrix: ``(3, 3)`` rotation and scaling as nested tuples, or None.
    """

    flips: tuple[bool, bool, bool]
    gain: float
    shift: float
    gamma: float
    noise: float
    seed: int
    matrix: tuple[tuple[float, ...], ...] | None


def draw_augmentation(rng: np.random.Generator, alike: Sequence[int] = (0, 1, 2)) -> Augmentation:
    """Draw one: mirrors half the time, a rotation up to about 15° and ±15 % scale one time in five.

    Args:
        rng: Source of randomness.
        alike: Axes that may be mirrored: see `medray.preprocessing.plan.Plan`.
    """
    flips = (rng.random(3) < 0.5) & np.isin(np.arange(3), alike)
    matrix = None
    if rng.random() < 0.2:
        turn = Rotation.from_euler("xyz", rng.uniform(-15, 15, 3), degrees=True).as_matrix()
        matrix = tuple(tuple(row) for row in (turn * rng.uniform(0.85, 1.15)).tolist())
    return Augmentation(
        flips=(bool(flips[0]), bool(flips[1]), bool(flips[2])),
        gain=float(rng.uniform(0.8, 1.2)),
        shift=float(rng.uniform(-0.2, 0.2)),
        gamma=float(np.exp(rng.uniform(-0.35, 0.35))) if rng.random() < 0.4 else 1.0,
        noise=float(rng.uniform(0, 0.12)) if rng.random() < 0.3 else 0.0,
        seed=int(rng.integers(2**31)),
        matrix=matrix,
    )


def augment(
    image: NDArray[np.float32], mask: NDArray[np.uint8], change: Augmentation
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Apply a drawn change.

    Args:
        image: ``(C, I, J, K)``, normalised.
        mask: ``(I, J, K)``.
        change: From `draw_augmentation`.

    Returns:
        New arrays of the same shapes; the inputs are left alone.
    """
    if change.matrix is not None:
        image, mask = _turn(image, mask, change.matrix)
    axes = tuple(axis for axis, flip in enumerate(change.flips) if flip)
    image = np.flip(image, tuple(axis + 1 for axis in axes)) * np.float32(change.gain)
    image += np.float32(change.shift)
    if change.gamma != 1.0:
        low, high = float(image.min()), float(image.max())
        span = max(high - low, 1e-6)
        image = ((image - low) / span) ** np.float32(change.gamma) * np.float32(span) + np.float32(low)
    if change.noise > 0:
        noise = np.random.default_rng(change.seed).standard_normal(image.shape, dtype=np.float32)
        image += noise * np.float32(change.noise)
    return np.ascontiguousarray(image), np.ascontiguousarray(np.flip(mask, axes))


def _turn(
    image: NDArray[np.float32], mask: NDArray[np.uint8], matrix: tuple[tuple[float, ...], ...]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Rotate and scale about the centre: the image linearly, the mask by nearest neighbour."""
    theta = torch.zeros(1, 3, 4)
    theta[0, :, :3] = torch.tensor(matrix)
    grid = torch.nn.functional.affine_grid(theta, [1, 1, *mask.shape], align_corners=False)
    both = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None]
    turned = torch.nn.functional.grid_sample(both, grid, padding_mode="border", align_corners=False)
    labels = torch.from_numpy(mask.astype(np.float32))[None, None]
    nearest = torch.nn.functional.grid_sample(labels, grid, mode="nearest", padding_mode="border", align_corners=False)
    return turned[0].numpy(), nearest[0, 0].numpy().astype(np.uint8)
