"""Multi-class segmentation: each voxel has one label or none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.typing import NDArray

from medray.evaluation.overlap import dice
from medray.preprocessing.plan import Plan
from medray.preprocessing.resample import argmax_resampled
from medray.types import Mask, Shape

__all__ = ["Segmentation"]


class Segmentation:
    """See `medray.tasks.task.Task`.

    Args:
        plan: For labels and their weights.
    """

    def __init__(self, plan: Plan) -> None:
        self._labels = plan.labels
        weights = torch.tensor(plan.label_weights)
        # Batch Dice: a label that is in no patch of the batch but one still has a gradient everywhere.
        self._loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True, weight=weights)

    @property
    def channels(self) -> int:
        """Background and one channel a label."""
        return 1 + len(self._labels.names)

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return Dice plus weighted cross-entropy (Isensee et al., Nature Methods 18 (2021) 203-211)."""
        self._loss.to(logits.device)
        loss: torch.Tensor = self._loss(logits.float(), target[:, None])
        return loss

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Softmax over channels."""
        return logits.float().softmax(dim=1)

    def decode(self, probabilities: NDArray[np.float32], shape: Shape) -> Mask:
        """Resample linearly, take the most probable channel, and write its label value."""
        return self._labels.from_channels(argmax_resampled(probabilities, shape))

    def score(self, predicted: Mask, truth: Mask) -> Mapping[str, float]:
        """Return Dice by label name."""
        return dice(predicted, truth, self._labels.names)
