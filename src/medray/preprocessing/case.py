"""One volume onto a plan's grid: the only preprocessing there is, for training, validation, batch and serving alike."""

from __future__ import annotations

import numpy as np

from medray.errors import ImageError
from medray.imaging.volume import Volume
from medray.preprocessing.foreground import Box, cropped, foreground_box
from medray.preprocessing.intensity import normalise
from medray.preprocessing.plan import Plan
from medray.preprocessing.resample import resampled_volume
from medray.preprocessing.resample_labels import resample_labels
from medray.types import Mask

__all__ = ["MAX_GRID_VOXELS", "frame_of", "prepare_image", "prepare_mask"]

MAX_GRID_VOXELS = 1_500_000_000


def prepare_image(volume: Volume, plan: Plan) -> Volume:
    """Reorient to LPS, crop, resample to the plan's spacing and normalise.

    Args:
        volume: On its source grid.
        plan: The recipe.

    Returns:
        float32 on the plan's grid.

    Raises:
        ImageError: If modality or channels aren't those that the plan knows, or the grid would be absurdly large.
    """
    modality = volume.meta.get("modality", "")
    if modality and modality != "OT" and "OT" not in plan.modalities and modality not in plan.modalities:
        known = ", ".join(plan.modalities)
        raise ImageError("wrong-modality", f"the image is {modality}; the model was trained on {known}")
    if len(volume.voxels) != plan.channels:
        raise ImageError(
            "wrong-channels", f"the image has {len(volume.voxels)} channels; the model was trained on {plan.channels}"
        )
    upright = framed(volume, plan)
    extent = np.multiply(upright.shape, upright.spacing_mm)
    if np.prod(extent / np.array(plan.spacing_mm)) > MAX_GRID_VOXELS:
        raise ImageError("too-large", f"the image spans {extent.round().tolist()} mm, too much for {plan.spacing_mm} mm voxels")
    resampled = resampled_volume(upright, plan.spacing_mm, order=plan.order, antialias=plan.antialias)
    return resampled.with_voxels(normalise(resampled.voxels, plan.intensity))


def prepare_mask(mask: Mask, volume: Volume, plan: Plan, prepared: Volume) -> Mask:
    """Bring a label map of the source grid onto the prepared grid, values replaced by channel numbers."""
    upright = cropped(volume.with_voxels(mask[np.newaxis]).reoriented(), frame_of(volume, plan))
    return resample_labels(plan.labels.channels(upright.voxels[0]), prepared.shape, method=plan.labels_by)


def frame_of(volume: Volume, plan: Plan) -> Box:
    """Return the box of the upright image that a plan looks at."""
    upright = volume.reoriented()
    return (
        foreground_box(upright)
        if plan.crop
        else (slice(0, upright.shape[0]), slice(0, upright.shape[1]), slice(0, upright.shape[2]))
    )


def framed(volume: Volume, plan: Plan) -> Volume:
    """Return the upright image inside its frame."""
    return cropped(volume.reoriented(), frame_of(volume, plan))
