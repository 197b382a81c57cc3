"""One volume onto a plan's grid: the only preprocessing there is, for training, validation, batch and serving alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medray.errors import ImageError
from medray.imaging.volume import Volume
from medray.preprocessing.intensity import normalise
from medray.preprocessing.plan import Plan
from medray.preprocessing.resample import resample_labels, resampled_volume
from medray.types import Mask

__all__ = ["MAX_GRID_VOXELS", "prepare_image", "prepare_mask", "sample_foreground"]

MAX_GRID_VOXELS = 1_500_000_000
FOREGROUND_VOXELS = 2000


def prepare_image(volume: Volume, plan: Plan) -> Volume:
    """Reorient to LPS, resample to the plan's spacing and normalise.

    Args:
        volume: On its source grid.
        plan: The recipe.

    Returns:
        float32 on the plan's grid.

    Raises:
        ImageError: If the modality isn't one the plan knows, or the grid would be absurdly large.
    """
    modality = volume.meta.get("modality", "")
    if modality and modality != "OT" and "OT" not in plan.modalities and modality not in plan.modalities:
        known = ", ".join(plan.modalities)
        raise ImageError("wrong-modality", f"the image is {modality}; the model was trained on {known}")
    upright = volume.reoriented()
    extent = np.multiply(upright.shape, upright.spacing_mm)
    if np.prod(extent / np.array(plan.spacing_mm)) > MAX_GRID_VOXELS:
        raise ImageError("too-large", f"the image spans {extent.round().tolist()} mm, too much for {plan.spacing_mm} mm voxels")
    resampled = resampled_volume(upright, plan.spacing_mm, order=plan.order)
    return resampled.with_voxels(normalise(resampled.voxels, plan.intensity))


def prepare_mask(mask: Mask, volume: Volume, plan: Plan, prepared: Volume) -> Mask:
    """Bring a label map of the source grid onto the prepared grid, values replaced by channel numbers."""
    upright = volume.with_voxels(mask[np.newaxis]).reoriented()
    return resample_labels(plan.labels.channels(upright.voxels[0]), prepared.shape)


def sample_foreground(mask: Mask, seed: int) -> NDArray[np.int32]:
    """Return up to 2,000 voxels of each channel as ``(N, 4)`` rows ``(channel, i, j, k)``, sorted by channel."""
    rng = np.random.default_rng(seed)
    found = []
    flat = mask.ravel()
    for channel in np.flatnonzero(np.bincount(flat))[1:]:
        places = np.flatnonzero(flat == channel)
        chosen = np.sort(rng.permutation(places)[:FOREGROUND_VOXELS])
        indices = np.stack(np.unravel_index(chosen, mask.shape), axis=1)
        found.append(np.concatenate([np.full((len(chosen), 1), channel), indices], axis=1))
    return np.concatenate(found).astype(np.int32) if found else np.empty((0, 4), dtype=np.int32)
