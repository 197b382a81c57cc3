"""What the values of a label map mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass

from medray.config import STRICT
from medray.errors import ConfigError, InputError, LabelError
from medray.imaging.geometry import closest_lps, same_grid
from medray.imaging.volume import Volume
from medray.types import Mask, Voxels

__all__ = ["LabelSchema", "onto", "renumbering"]


@dataclass(frozen=True, config=STRICT)
class LabelSchema:
    """Names of labels and the values that stand for them in a mask.

    Attributes:
        names: Label name to value, 1 to 255; 0 is always background and isn't listed.
    """

    names: Mapping[str, int]

    @classmethod
    def listed(cls, said: Any) -> LabelSchema:
        """Read names as MONAI Label lists them, ``[{"name": "lesion", "idx": 1}]``; the background may be among them.

        Raises:
            InputError: If they aren't so, or a value is none from 0 to 255, or stands for two names.
        """
        try:
            names = {str(item["name"]): int(item["idx"]) for item in said}
            return cls({name: value for name, value in names.items() if value})
        except (TypeError, KeyError, ValueError, OverflowError):
            raise InputError('label_info must be a list such as [{"name": "lesion", "idx": 1}], idx from 1 to 255') from None

    def __post_init__(self) -> None:
        values = list(self.names.values())
        if len(set(values)) != len(values) or any(not 1 <= value <= 255 for value in values):
            raise ConfigError(f"label values must be distinct and from 1 to 255; got {dict(self.names)}")

    @property
    def values(self) -> tuple[int, ...]:
        """The values in the schema's order: a network's channel c + 1 stands for ``values[c]``."""
        return tuple(self.names.values())

    def checked(self, voxels: Voxels) -> Mask:
        """Return a label map as uint8.

        Raises:
            LabelError: If a voxel is no whole number from 0 to 255, or a value isn't in the schema.
        """
        with np.errstate(invalid="ignore"):
            mask = voxels.astype(np.uint8)
        if voxels.dtype not in (np.uint8, np.bool_) and not np.array_equal(mask, voxels):
            raise LabelError("bad-label-values", "a label map holds whole numbers from 0 to 255; this one has others")
        found = np.flatnonzero(np.bincount(mask.ravel(order="K"), minlength=256))
        unknown = sorted(set(found.tolist()) - {0, *self.values})
        if unknown:
            known = ", ".join(f"{value} = {name}" for name, value in self.names.items())
            raise LabelError("unknown-label", f"values {unknown} are not in the schema ({known}); add them or fix the map")
        return mask

    def channels(self, mask: Mask) -> Mask:
        """Replace label values by channel numbers 0 … n, in the schema's order."""
        return _table({value: channel + 1 for channel, value in enumerate(self.values)})[mask]

    def from_channels(self, channels: Mask) -> Mask:
        """Undo `channels`."""
        return _table({channel + 1: value for channel, value in enumerate(self.values)})[channels]

    def volumes_ml(self, mask: Mask, voxel_ml: float) -> dict[str, float]:
        """Return each label's volume in millilitres."""
        counts = np.bincount(mask.ravel(order="K"), minlength=256)
        return {name: float(counts[value] * voxel_ml) for name, value in self.names.items()}


def onto(image: Volume, label: Volume) -> Volume:
    """Reorder a label map's axes to its image's.

    Raises:
        LabelError: If no reordering makes the grids one.
    """
    moved = label.reoriented()
    back = closest_lps(image.affine).inverse
    voxels, affine = back.apply(moved.voxels), back.apply_affine(moved.affine, moved.shape)
    if voxels.shape[1:] != image.shape or not same_grid(affine, image.affine, image.shape):
        raise LabelError("label-grid", "the label map and its image lie on different grids: resample one onto the other")
    return Volume(voxels, image.affine)


def renumbering(names: Mapping[str, int], values: Mapping[str, int]) -> Mask:
    """Return a table ``(256,)`` from the values that names have to others'; those that others haven't become background."""
    return _table({value: values.get(name, 0) for name, value in names.items()})


def _table(pairs: Mapping[int, int]) -> Mask:
    table = np.zeros(256, dtype=np.uint8)
    table[list(pairs)] = list(pairs.values())
    return table
