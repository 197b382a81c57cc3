"""Intensities on a scale that a network can learn from, as the plan says."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from medray.config import STRICT
from medray.errors import ConfigError

__all__ = ["Intensity", "intensities", "normalise"]

ARBITRARY_MEAN, ARBITRARY_DEVIATION = 1000.0, 250.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Intensity:
    """How intensities are normalised.

    Attributes:
        method: ``"foreground-zscore"``: mean 0 and deviation 1 over the voxels brighter than the volume's mean (for MR,
            whose unit is arbitrary). ``"window-zscore"``: clip to `window`, then subtract `centre` and divide by
            `width` (for CT, whose unit is absolute).
        window: Lowest and highest value kept, in the modality's unit.
        centre: Subtracted after clipping.
        width: Divided by.
    """

    method: Literal["foreground-zscore", "window-zscore"] = "foreground-zscore"
    window: tuple[float, float] = (-1000.0, 3000.0)
    centre: float = 0.0
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.window[0] >= self.window[1] or self.width <= 0:
            raise ConfigError(f"window {self.window} must rise and width {self.width} be positive")


def normalise(voxels: NDArray[np.float32], intensity: Intensity) -> NDArray[np.float32]:
    """Normalise each channel ``(C, I, J, K)`` and return a new array."""
    if intensity.method == "window-zscore":
        return (np.clip(voxels, *intensity.window) - np.float32(intensity.centre)) / np.float32(intensity.width)
    result = np.empty_like(voxels)
    for channel, out in zip(voxels, result, strict=True):
        bright = channel[channel > channel.mean()]
        mean, deviation = (float(bright.mean()), float(bright.std())) if bright.size else (float(channel.mean()), 0.0)
        # A constant foreground has no width of its own: take the whole volume's, or none for a constant volume.
        width = np.float32(deviation if deviation > 1e-6 * max(abs(mean), 1.0) else float(channel.std()) or 1.0)
        np.divide(np.subtract(channel, np.float32(mean), out=out), width, out=out)
    return result


def intensities(voxels: NDArray[np.float32], intensity: Intensity) -> NDArray[np.float32]:
    """Undo `normalise`, as far as it can be: where the unit is arbitrary, with foregrounds of mean 1000 and deviation 250."""
    if intensity.method == "window-zscore":
        return voxels * np.float32(intensity.width) + np.float32(intensity.centre)
    return voxels * np.float32(ARBITRARY_DEVIATION) + np.float32(ARBITRARY_MEAN)
