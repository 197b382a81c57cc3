"""`Predictor`: what was validated is what is served, benchmarked and run in batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from medray import config
from medray.errors import InputError, NotFoundError
from medray.imaging.geometry import closest_lps
from medray.imaging.volume import Volume
from medray.inference.sliding_window import slide
from medray.models.networks import build_model
from medray.preprocessing.case import frame_of, prepare_image
from medray.preprocessing.foreground import shape_of
from medray.preprocessing.plan import Plan, read_plan
from medray.tasks.task import task_of
from medray.types import Mask, Shape

__all__ = ["Prediction", "Predictor"]

IMAGE_CHANNELS = 1


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A result on the image's own grid.

    Attributes:
        mask: One uint8 channel of label values, with the source's affine.
        volumes_ml: Label name to volume in millilitres.
        latencies: Stage to seconds: ``preprocess``, ``network``, ``postprocess``.
    """

    mask: Volume
    volumes_ml: Mapping[str, float]
    latencies: Mapping[str, float]


class Predictor:
    """A model with its plan.

    Args:
        model: In evaluation mode, on `device`.
        plan: What it was trained by.
        device: Where it runs.
    """

    def __init__(self, model: nn.Module, plan: Plan, device: torch.device) -> None:
        self.plan = plan
        self._task = task_of(plan)
        self._model = model
        self._device = device

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Predictor:
        """Load a model folder: ``plan.json`` and ``weights.safetensors``.

        Raises:
            NotFoundError: If a file is missing.
            InputError: If the weights don't fit the plan.
        """
        weights = folder / "weights.safetensors"
        if not weights.is_file():
            raise NotFoundError(f"no weights.safetensors in {folder}: is it a model folder?")
        plan = read_plan(config.read_file(folder / "plan.json"), what=str(folder / "plan.json"))
        model = build_model(plan.network, IMAGE_CHANNELS, task_of(plan).channels)
        try:
            model.load_state_dict(load_file(weights))
        except Exception as error:
            raise InputError(f"{weights} doesn't fit its plan: {str(error).splitlines()[0]}") from error
        return cls(model.to(device).eval(), plan, torch.device(device))

    def predict(self, volume: Volume) -> Prediction:
        """Predict on an image of any grid.

        Raises:
            ImageError: If the image is of a modality that the model doesn't know.
        """
        started = time.perf_counter()
        prepared = prepare_image(volume, self.plan)
        ready = time.perf_counter()
        probabilities = self.probabilities(prepared.voxels)
        answered = time.perf_counter()
        mask = self._onto_source(probabilities, volume)
        done = time.perf_counter()
        return Prediction(
            mask=Volume(mask[np.newaxis], volume.affine),
            volumes_ml=self.plan.labels.volumes_ml(mask, volume.voxel_ml),
            latencies={"preprocess": ready - started, "network": answered - ready, "postprocess": done - answered},
        )

    def predict_prepared(self, image: NDArray[np.float16]) -> Mask:
        """Return label values for a prepared image ``(C, I, J, K)`` on the plan's own grid; for validation."""
        shape: Shape = (image.shape[1], image.shape[2], image.shape[3])
        return self._task.decode(self.probabilities(image.astype(np.float32)), shape)

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``(D, I, J, K)`` on the plan's grid."""
        with torch.inference_mode():
            return slide(lambda patch: self._task.probabilities(self._model(patch)), image, self.plan, self._device)

    def _onto_source(self, probabilities: NDArray[np.float32], volume: Volume) -> Mask:
        orientation = closest_lps(volume.affine)
        frame = frame_of(volume, self.plan)
        mask = np.zeros(orientation.apply(volume.voxels).shape[1:], np.uint8)
        mask[frame] = self._task.decode(probabilities, shape_of(frame))
        return np.ascontiguousarray(orientation.inverse.apply(mask))
