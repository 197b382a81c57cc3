"""Several files that say they are one object: which of them to read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medray.errors import ImageError
from medray.formats.dicom import read_dicom_series
from medray.formats.dicom_file import without_meta
from medray.imaging.volume import Volume

__all__ = ["choose_copy"]

PLACE_TOLERANCE_MM = 1e-3


def choose_copy(copies: Mapping[str, bytes]) -> tuple[str, dict[str, ImageError]]:
    """Choose among files with one SOPInstanceUID.

    Their headers may differ: an archive mends a name and keeps the UID, a gateway compresses without loss. Their voxels and
    where those lie may not (PS3.3 C.12.1.1.1 asks for a new UID where an object becomes another one).

    Args:
        copies: Name to content.

    Returns:
        The name of the first that can be read, and what is wrong with those that can't.

    Raises:
        ImageError: If none can be read, or two that can show different things.
    """
    names = list(copies)
    if len({without_meta(data) for data in copies.values()}) == 1:
        return names[0], {}
    images: dict[str, Volume] = {}
    damaged: dict[str, ImageError] = {}
    for name, data in copies.items():
        try:
            images[name] = read_dicom_series([lambda data=data: data]).volume  # type: ignore[misc]
        except ImageError as error:
            damaged[name] = error
    if not images:
        raise damaged[names[0]]
    first, *rest = images
    if not all(_same(images[first], images[name]) for name in rest):
        detail = f"{len(images)} objects with one SOPInstanceUID show different things: keep the right one in the source"
        raise ImageError("conflicting-objects", detail)
    return first, damaged


def _same(one: Volume, other: Volume) -> bool:
    return bool(
        one.voxels.shape == other.voxels.shape
        and np.array_equal(one.voxels, other.voxels)
        and np.abs(one.affine - other.affine).max() <= PLACE_TOLERANCE_MM
    )
