"""The real anatomy under the samples: MNI152 2009a T1 with its grey- and white-matter maps.

Source: Fonov et al., NeuroImage 54 (2011) 313-327, doi:10.1016/j.neuroimage.2010.07.033, as shipped in the
``nilearn`` package (BSD-3): 1 mm, skull-stripped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medray.errors import NotFoundError
from medray.imaging.geometry import RAS_TO_LPS, Orientation
from medray.types import Affine

__all__ = ["Anatomy", "load_anatomy"]

MARGIN_VOXELS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """A template.

    Attributes:
        maps: ``(C, I, J, K)`` float32 from 0 to 1; of the brain three: T1 intensity, grey-matter and white-matter fraction.
        affine: ``(4, 4)``, voxel indices to LPS mm; axes along L, P, S.
    """

    maps: NDArray[np.float32]
    affine: Affine


@cache
def load_anatomy() -> Anatomy:
    """Load the brain at 1 mm, cropped to it.

    Raises:
        NotFoundError: If the ``samples`` extra isn't installed.
    """
    try:
        from nilearn import datasets  # noqa: PLC0415 - an optional package, and slow to import
    except ImportError:
        raise NotFoundError("samples need the nilearn package: pip install 'medray[samples]'") from None
    images: list[Any] = [
        datasets.load_mni152_template(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
    ]
    ras = np.stack([np.asarray(image.dataobj, dtype=np.float32) for image in images])
    flip = Orientation((0, 1, 2), (True, True, False))
    affine = flip.apply_affine(RAS_TO_LPS @ images[0].affine, ras.shape[1:])
    return _cropped(np.clip(flip.apply(ras), 0, 1), affine)


def _cropped(maps: NDArray[np.float32], affine: Affine) -> Anatomy:
    inside = np.argwhere(maps[0] > 0.05)
    start = np.maximum(inside.min(axis=0) - MARGIN_VOXELS, 0)
    stop = inside.max(axis=0) + MARGIN_VOXELS + 1
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start
    return Anatomy(np.ascontiguousarray(maps[(slice(None), *box)]), moved)
