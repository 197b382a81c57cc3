"""Resampling on a device: the same matrices as `medray.preprocessing.resample`, and general affines by grid sampling."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn.functional import grid_sample

from medray.imaging.volume import Volume
from medray.preprocessing.resample import operator
from medray.types import Affine, Shape

__all__ = ["onto_grid", "resample_tensor"]

SLAB_ROWS = 16


def resample_tensor(image: torch.Tensor, shape: Shape, *, order: int, antialias: bool = False) -> torch.Tensor:
    """Resample ``(C, I, J, K)`` to ``shape`` over the same field of view, on the tensor's own device: three matrix products.

    Args:
        image: Any real dtype.
        shape: Voxels along I, J, K of the result.
        order: Spline order 0, 1 or 3.
        antialias: As in `medray.preprocessing.resample.resample`.

    Returns:
        float32.
    """
    result = image.to(torch.float32)
    for axis in range(3):
        size = result.shape[axis + 1]
        if size != shape[axis]:
            matrix = torch.from_numpy(operator(size, shape[axis], order, antialias=antialias).matrix).to(result.device)
            result = torch.movedim(torch.tensordot(result, matrix, dims=([axis + 1], [1])), -1, axis + 1)
    return result.contiguous()


def onto_grid(
    volume: Volume,
    affine: Affine,
    shape: Shape,
    *,
    method: Literal["linear", "nearest"] = "linear",
    outside: float = 0.0,
    device: torch.device | str = "cpu",
) -> Volume:
    """Resample a volume onto any other grid in the world, slab by slab.

    Args:
        volume: Source.
        affine: ``(4, 4)`` of the target grid, which may be rotated and sheared against the source's.
        shape: Voxels along I, J, K of the target grid.
        method: Interpolation.
        outside: Value of target voxels whose centres lie outside the source's outermost centres.
        device: Where it is computed.

    Returns:
        float32, or the source's own dtype with ``"nearest"``.
    """
    source = torch.from_numpy(np.ascontiguousarray(volume.voxels, dtype=np.float32)).to(device)[None]
    to_source = np.linalg.inv(volume.affine) @ affine
    sizes = torch.tensor([max(1, n - 1) for n in volume.shape], dtype=torch.float64)
    last = torch.tensor([n - 1 for n in volume.shape], dtype=torch.float64)
    matrix = torch.from_numpy(to_source)
    result = np.empty((volume.voxels.shape[0], *shape), np.float32)
    rest = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape[1:]), indexing="ij")
    for start in range(0, shape[0], SLAB_ROWS):
        rows = torch.arange(start, min(start + SLAB_ROWS, shape[0]), dtype=torch.float64)
        indices = torch.stack(
            [rows[:, None, None].expand(-1, *shape[1:]), *(axis.expand(len(rows), -1, -1) for axis in rest)], dim=-1
        )
        places = indices @ matrix[:3, :3].T + matrix[:3, 3]
        inside = ((places > -1e-6) & (places < last + 1e-6)).all(dim=-1)
        # grid_sample wants x, y, z from -1 to 1: the last axis first.
        grid = (places / sizes * 2 - 1).flip(-1).to(torch.float32).to(device)[None]
        mode = "bilinear" if method == "linear" else "nearest"
        slab = grid_sample(source, grid, mode=mode, padding_mode="border", align_corners=True)[0].cpu()
        result[:, start : start + len(rows)] = torch.where(inside, slab, torch.tensor(outside, dtype=torch.float32)).numpy()
    kept = result.astype(volume.voxels.dtype) if method == "nearest" else result
    return Volume(kept, affine, volume.meta)
