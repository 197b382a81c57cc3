"""The seam between a task and everything that trains, predicts or scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from medray.evaluation.calibration import Calibrations
from medray.preprocessing.blocks import Blocks
from medray.preprocessing.plan import Plan
from medray.tasks.answer import Answer, Example, Record, Summary, Truth
from medray.tasks.detection import Detection
from medray.tasks.diagnosis import Diagnosis
from medray.tasks.progression import Progression
from medray.tasks.segmentation import Segmentation
from medray.tasks.synthesis import Synthesis
from medray.types import Shape

__all__ = ["Task", "task_of"]


class Task(Protocol):
    """All that one task needs: what the network's map means, loss, decoding, scores."""

    @property
    def inputs(self) -> int:
        """Input channels of the network."""
        ...

    @property
    def channels(self) -> int:
        """Output channels of the network."""
        ...

    @property
    def measure(self) -> str:
        """The measure, of those in a summary, by which epochs and models are compared; higher is better."""
        ...

    def given(self, example: Example, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return what the network is shown of an example, ``(inputs, I, J, K)``."""
        ...

    def target(self, example: Example) -> NDArray[np.generic]:
        """Return what an example should be answered with."""
        ...

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of outputs ``(B, C, I, J, K)`` for a batch of targets.

        In training with deep supervision outputs are ``(B, D, C, I, J, K)``, finest first.
        """
        ...

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Turn outputs ``(B, C, I, J, K)`` into a map of the same shape that may be blended with its neighbours'."""
        ...

    def decode(self, blocks: Blocks, shape: Shape) -> Answer:
        """Turn a blended map ``(C, I, J, K)`` into an answer on ``shape`` voxels over the same field of view."""
        ...

    def compare(self, answer: Answer, truth: Truth, *, thorough: bool = True) -> Record:
        """Measure one answer; not ``thorough``: only what `measure` needs."""
        ...

    def calibrate(self, records: Sequence[Record]) -> Calibrations:
        """Return, from records of images that weren't trained on, how its answers are to be taken; may be empty.

        The records are those of a task without calibration, not `thorough`.
        """
        ...

    def summarise(self, records: Sequence[Record]) -> Summary:
        """Sum up many images' records."""
        ...


TASKS: dict[str, Callable[[Plan, Calibrations], Task]] = {
    "segmentation": Segmentation,
    "diagnosis": Diagnosis,
    "detection": Detection,
    "synthesis": Synthesis,
    "progression": Progression,
}


def task_of(plan: Plan, calibration: Calibrations | None = None) -> Task:
    """Return the task that a plan names, its answers taken as validation showed."""
    return TASKS[plan.task](plan, calibration or {})
