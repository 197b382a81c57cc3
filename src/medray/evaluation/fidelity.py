"""How alike images are as a kind, and how near one is to another: for images that nobody took.

A kind is described by its labels' intensities and textures; two samples of descriptions are compared by their maximum mean
discrepancy. Likeness of one image to another is their correlation at a coarse grid, which small warps and noise leave as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from medray.types import Mask

__all__ = ["BANDS", "describe", "discrepancy", "nearest", "thumbnail"]

SCALES = (0.0, 1.0, 2.0, 4.0)
"""Deviations, in voxels, of the smoothings whose differences are bands of texture: finest first."""
BANDS = len(SCALES) - 1
THUMBNAIL = 20
FEW_VOXELS = 50

Vector = NDArray[np.float64]


def describe(image: NDArray[np.float32], mask: Mask, names: Mapping[str, int]) -> dict[str, Vector]:
    """Return each label's intensities and textures.

    Args:
        image: ``(C, I, J, K)``, normalised.
        mask: ``(I, J, K)`` channel numbers.
        names: Label to channel number.

    Returns:
        Label to, for each channel, its mean, the logarithm of its deviation, and the logarithm of the root mean square of each
        band of a Laplacian pyramid without decimation (Burt & Adelson, IEEE Trans. Commun. 31 (1983) 532-540), finest first.
        Labels of few voxels are left out.
    """
    inside = {name: mask == number for name, number in names.items()}
    inside = {name: where for name, where in inside.items() if where.sum() >= FEW_VOXELS}
    found: dict[str, list[float]] = {name: [] for name in inside}
    for channel in image.astype(np.float32):
        smooth = [channel if scale == 0 else gaussian_filter(channel, scale) for scale in SCALES]
        bands = [finer - coarser for finer, coarser in pairwise(smooth)]
        for name, where in inside.items():
            values = channel[where]
            found[name] += [float(values.mean()), _log(float(values.std()))]
            found[name] += [_log(float(np.square(band[where]).mean())) / 2 for band in bands]
    return {name: np.array(values) for name, values in found.items()}


def discrepancy(first: Vector, second: Vector) -> float:
    """Return the squared maximum mean discrepancy of two samples, unbiased (Gretton et al., JMLR 13 (2012) 723-773, eq. 3).

    Features are divided by their deviation in the first sample; the kernel is Gaussian, as wide as the median distance in it.
    About 0 for samples of one kind, towards 1 and more for samples that have nothing in common.

    Args:
        first: ``(N, D)``, the reference.
        second: ``(M, D)``.

    Raises:
        ValueError: If a sample has fewer than two.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a discrepancy needs two of each sample at least")
    scale = np.maximum(first.std(axis=0), 1e-6)
    a, b = first / scale, second / scale
    within, across, other = _distances(a, a), _distances(a, b), _distances(b, b)
    width = float(np.median(within[np.triu_indices(len(a), 1)])) or 1.0

    def mean(distances: Vector, *, same: bool) -> float:
        kernel = np.exp(-distances / (2 * width))
        size = len(kernel)
        return float((kernel.sum() - size) / (size * (size - 1)) if same else kernel.mean())

    return mean(within, same=True) + mean(other, same=True) - 2 * mean(across, same=False)


def thumbnail(image: NDArray[np.float32]) -> Vector:
    """Return an image ``(C, I, J, K)`` on one coarse grid, with mean 0 and length 1: dot products are correlations."""
    sides = [min(THUMBNAIL, side) if side == 1 else THUMBNAIL for side in image.shape[1:]]
    factors = [1.0, *(side / have for side, have in zip(sides, image.shape[1:], strict=True))]
    blurred = [gaussian_filter(channel.astype(np.float32), [0.5 / factor for factor in factors[1:]]) for channel in image]
    small: Vector = zoom(np.stack(blurred), factors, order=1, grid_mode=True, mode="nearest").astype(np.float64).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-12)


def nearest(thumbnails: Vector, among: Vector, *, unless: NDArray[np.bool_] | None = None) -> Vector:
    """Return each one's highest correlation with any among others, pairs left out where ``unless``, ``(N, M)``, is true."""
    correlation = thumbnails @ among.T
    if unless is not None:
        correlation[unless] = -np.inf
    highest: Vector = correlation.max(axis=1)
    return highest


def _distances(a: Vector, b: Vector) -> Vector:
    """Return squared Euclidean distances ``(N, M)``."""
    squared: Vector = np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0)
    return squared


def _log(value: float) -> float:
    return float(np.log(max(value, 1e-6)))
