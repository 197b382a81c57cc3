"""The seam between a task and everything that trains, predicts or scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from medray.errors import ConfigError
from medray.preprocessing.plan import Plan
from medray.tasks.segmentation import Segmentation
from medray.types import Mask, Shape

__all__ = ["Task", "task_of"]


class Task(Protocol):
    """All that one task needs: head, loss, decoding, scores."""

    @property
    def channels(self) -> int:
        """Output channels of the network."""
        ...

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits ``(B, C, I, J, K)`` for channel numbers ``(B, I, J, K)``."""
        ...

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits ``(B, C, I, J, K)`` into probabilities of the same shape."""
        ...

    def decode(self, probabilities: NDArray[np.float32], shape: Shape) -> Mask:
        """Turn probabilities ``(C, I, J, K)`` into a label map of ``shape`` over the same field of view."""
        ...

    def score(self, predicted: Mask, truth: Mask) -> Mapping[str, float]:
        """Score a label map; higher is better; NaN where a label is in neither."""
        ...


def task_of(plan: Plan) -> Task:
    """Return the task that a plan names."""
    if plan.task == "segmentation":
        return Segmentation(plan)
    raise ConfigError(f"task {plan.task!r} is unknown")
