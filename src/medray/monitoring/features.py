"""What an image looks like, in a few dozen numbers that are cheap to take and tell scanners, protocols and mistakes apart.

Nothing here is about anatomy in detail; that is what a network's embedding is for (`medray.models.embedding`). Each number is
about one thing that goes wrong: how finely and in which direction was scanned, how bright, how noisy, how evenly lit, which way
up. All are taken from at most some tens of thousands of voxels, however large the image is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medray.imaging.volume import Volume

__all__ = ["AXES", "FEATURES", "image_features"]

SIDE = 32
"""Of the grid of voxels that is looked at: at most so many along each axis."""
BLOCK = 24
"""Side of the block in the image's middle that noise is told from."""
LOOKED_AT = 4000
"""Voxels of the foreground whose places are looked at."""
AXES = "lps"
LAPLACE_GAIN = math.sqrt(1.5)
"""Of white noise: the standard deviation of v[n] - (v[n-1] + v[n+1]) / 2."""
MAD = 0.6745
"""Median absolute deviation of a standard normal distribution (Rousseeuw & Croux, JASA 88 (1993) 1273-1283)."""
FEATURES: dict[str, str] = {
    "mvoxels": "millions of voxels",
    "spacing_min": "the finest voxel spacing, mm",
    "spacing_max": "the coarsest voxel spacing, mm: most often the distance of slices",
    **{f"field_{axis}": f"field of view along {axis.upper()}, mm" for axis in AXES},
    "tilt": "angle between the voxels' axes and the patient's, degrees",
    "level": "decimal logarithm of the bright tissue's value: the 90th percentile of the foreground",
    **{f"p{share}": f"{share}th percentile of the foreground, of the 90th" for share in (10, 25, 50, 75)},
    "background": "mean of the background, of the foreground's 90th percentile",
    "noise": "standard deviation of what changes from voxel to voxel, of the foreground's 90th percentile",
    "shading": "standard deviation of a smooth field fitted to the logarithm of the foreground: how unevenly it is lit",
    **{f"slope_{axis}": f"by how much brightness changes along {axis.upper()}, per 100 mm" for axis in AXES},
    **{f"extent_{axis}": f"standard deviation of the foreground's places along {axis.upper()}, mm" for axis in AXES},
    **{f"lean_{axis}": f"skewness of the foreground's places along {axis.upper()}" for axis in AXES},
    **{f"weight_{axis}": f"how far bright tissue lies from the foreground's middle along {axis.upper()}, mm" for axis in AXES},
}
"""Each number and what it says, with its unit."""


def image_features(volume: Volume) -> dict[str, float]:
    """Return an image's numbers, those of `FEATURES`; NaN where one can't be told.

    Axes are the patient's (L, P, S), whichever way the voxels lie. Of several channels the first is looked at.

    Args:
        volume: ``(C, I, J, K)``.
    """
    upright = volume.reoriented()
    spacing = np.array(upright.spacing_mm, np.float64)
    sides = np.array(upright.shape)
    steps = np.maximum(1, -(-sides // SIDE))
    seen = upright.voxels[0, :: steps[0], :: steps[1], :: steps[2]].astype(np.float32)
    found = dict.fromkeys(FEATURES, math.nan)
    found["mvoxels"] = float(sides.prod()) / 1e6
    found |= {"spacing_min": float(spacing.min()), "spacing_max": float(spacing.max()), "tilt": _tilt(upright.affine)}
    found |= {f"field_{axis}": float(side) for axis, side in zip(AXES, sides * spacing, strict=True)}
    bright = seen > _otsu(seen)
    if not bright.any():
        return found
    inside, outside = seen[bright], seen[~bright]
    low, quarter, half, most, top = np.percentile(inside, (10, 25, 50, 75, 90))
    if not top > 0:
        return found
    found |= {"level": math.log10(top), "background": float(outside.mean() / top) if outside.size else math.nan}
    found |= {f"p{share}": float(value / top) for share, value in ((10, low), (25, quarter), (50, half), (75, most))}
    found["noise"] = _noise(upright.voxels[0], bright, steps) / float(top)
    every = max(1, len(inside) // LOOKED_AT)
    places, values = (np.argwhere(bright) * (steps * spacing))[::every], (inside / top)[::every]
    return found | _form(places, values) | _light(places, values)


def _tilt(affine: NDArray[np.float64]) -> float:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(np.diag(directions)).min(), -1, 1))))


def _otsu(values: NDArray[np.float32]) -> float:
    """Return the value that parts background and foreground best (Otsu, IEEE Trans. SMC 9 (1979) 62-66)."""
    low, high = (float(end) for end in np.percentile(values, (0.5, 99.5)))
    if not high > low:
        return high
    counts, edges = np.histogram(values, 128, (low, high))
    middles, share = (edges[1:] + edges[:-1]) / 2, np.cumsum(counts) / counts.sum()
    mean = np.cumsum(counts * middles) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean[-1] * share - mean) ** 2 / (share * (1 - share))
    return float(middles[int(np.nanargmax(between))])


def _noise(voxels: NDArray[np.generic], bright: NDArray[np.bool_], steps: NDArray[np.intp]) -> float:
    """Return a robust standard deviation of what changes from one voxel to the next, in a block about the foreground's middle.

    Along each axis what is left of a voxel when the mean of its neighbours is taken away is noise and fine structure; the axis
    on which there is the least of it has the least structure.
    """
    middle = (np.argwhere(bright).mean(axis=0) * steps).astype(int)
    corner = np.clip(middle - BLOCK // 2, 0, np.maximum(np.array(voxels.shape) - BLOCK, 0))
    block = voxels[tuple(slice(start, start + BLOCK) for start in corner)].astype(np.float32)
    found = []
    for axis, side in enumerate(block.shape):
        if side >= 3:
            lines = np.moveaxis(block, axis, 0)
            rest = lines[1:-1] - (lines[:-2] + lines[2:]) / 2
            found.append(float(np.median(np.abs(rest - np.median(rest)))) / MAD / LAPLACE_GAIN)
    return min(found, default=math.nan)


def _form(places: NDArray[np.float64], values: NDArray[np.float32]) -> dict[str, float]:
    """Say how the foreground lies in space."""
    middle = places.mean(axis=0)
    off = places - middle
    extent = off.std(axis=0)
    lean = (off**3).mean(axis=0) / np.maximum(extent, 1e-6) ** 3
    weights = values.astype(np.float64) ** 2
    weight = (off * weights[:, None]).sum(axis=0) / weights.sum()
    named = {"extent": extent, "lean": lean, "weight": weight}
    return {f"{name}_{axis}": float(value) for name, of in named.items() for axis, value in zip(AXES, of, strict=True)}


def _light(places: NDArray[np.float64], values: NDArray[np.float32]) -> dict[str, float]:
    """Fit a quadratic to the logarithm of the foreground: what light it has beside what it is made of."""
    where = (places - places.mean(axis=0)) / 100
    told = np.log(np.maximum(values, 1e-3))
    squares = [where[:, a] * where[:, b] for a in range(3) for b in range(a, 3)]
    terms = np.column_stack([np.ones(len(where)), where, *squares])
    fitted, *_ = np.linalg.lstsq(terms, told, rcond=None)
    slopes = {f"slope_{axis}": float(value) for axis, value in zip(AXES, fitted[1:4], strict=True)}
    return {"shading": float((terms[:, 1:] @ fitted[1:]).std()), **slopes}
