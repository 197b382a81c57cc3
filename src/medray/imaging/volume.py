"""The image that flows through medray: voxels, where they lie in the world, and what made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medray.errors import ImageError
from medray.imaging.geometry import checked_affine, closest_lps, spacing_mm
from medray.types import Affine, Shape, Triple, Voxels

__all__ = ["Volume"]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A medical image.

    Attributes:
        voxels: ``(C, I, J, K)``, any real dtype, in the modality's own unit (HU for CT).
        affine: ``(4, 4)``, voxel indices to LPS mm.
        meta: Technical facts that identify nobody, such as ``{"modality": "MR"}``.

    Raises:
        ImageError: If the shape isn't four-dimensional, an axis is empty, or the affine is unusable.
    """

    voxels: Voxels
    affine: Affine
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.voxels.ndim != 4 or 0 in self.voxels.shape:
            raise ImageError("bad-shape", f"a volume has axes (C, I, J, K), all non-empty; this one is {self.voxels.shape}")
        object.__setattr__(self, "affine", checked_affine(self.affine))

    @property
    def shape(self) -> Shape:
        """Voxels along I, J, K."""
        _, i, j, k = self.voxels.shape
        return i, j, k

    @property
    def spacing_mm(self) -> Triple:
        """Distance between voxel centres along I, J, K in mm."""
        return spacing_mm(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def with_voxels(self, voxels: Voxels) -> Volume:
        """Return other voxels on the same grid, with the same meta."""
        return Volume(voxels, self.affine, self.meta)

    def reoriented(self) -> Volume:
        """Return the same image with its axes as near to LPS as a signed permutation gets; a view."""
        orientation = closest_lps(self.affine)
        affine = orientation.apply_affine(self.affine, self.shape)
        return Volume(orientation.apply(self.voxels), affine, self.meta)

    def checked_finite(self) -> Volume:
        """Return the volume itself.

        Raises:
            ImageError: If a voxel is NaN or infinite.
        """
        with np.errstate(all="ignore"):
            suspect = self.voxels.dtype.kind == "f" and not np.isfinite(self.voxels.sum(dtype=np.float64))
        if suspect:
            bad = int(np.count_nonzero(~np.isfinite(self.voxels)))
            if bad:
                raise ImageError("non-finite-voxels", f"{bad} of {self.voxels.size} voxels are NaN or infinite")
        return self
