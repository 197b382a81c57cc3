"""Names for arrays, so that a signature says axes, unit and frame.

World coordinates are **LPS in millimetres** everywhere (DICOM PS3.3 C.7.6.2.1.1): +x to the patient's left,
+y to the posterior, +z to the superior. Formats that think in RAS are converted where they are read.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Voxels: TypeAlias = NDArray[Any]
"""An image ``(C, I, J, K)``: channels first, then three voxel axes in the order that the affine maps."""

Mask: TypeAlias = NDArray[np.uint8]
"""A label map ``(I, J, K)``: one label value a voxel, 0 is background."""

Affine: TypeAlias = NDArray[np.float64]
"""``(4, 4)``: voxel indices ``(i, j, k, 1)`` to LPS world coordinates in mm; voxel centres are at integers."""

Triple: TypeAlias = tuple[float, float, float]
"""One number for each voxel axis, in array order: spacings in mm, or world coordinates in mm."""

Shape: TypeAlias = tuple[int, int, int]
"""Voxels along I, J, K."""
