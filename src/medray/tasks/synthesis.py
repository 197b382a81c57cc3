"""Synthesis: an image for a label map. What is generated shows what it is asked for, so that it comes with its truth.

The network is shown, for each place: which label is there, how bright that label is in this image (a style that is read off a
real image, or drawn anew), and noise. Against its rival (`medray.training.adversarial`) it learns to fill in what these leave
open.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medray.evaluation.calibration import Calibrations
from medray.evaluation.fidelity import describe
from medray.preprocessing.plan import Plan
from medray.preprocessing.resample import resample
from medray.tasks.answer import Answer, Example, Record, Summary, Truth
from medray.types import Mask, Shape

__all__ = ["Style", "Synthesis", "conditions", "style_of"]

Style = NDArray[np.float32]
"""Mean intensity of each channel number in each channel of an image: ``(C, labels + 1)``; 0 for what isn't there."""


class Synthesis:
    """See `medray.tasks.task.Task`. Measures: likeness of each label's intensity and texture, and how far each is off.

    Args:
        plan: For labels and channels.
        calibration: None: an image says nothing that could be wrong by a curve.
    """

    measure = "likeness"

    def __init__(self, plan: Plan, calibration: Calibrations) -> None:
        self._plan = plan
        self._names = {name: plan.numbers(name)[0] for name in plan.targets}

    @property
    def inputs(self) -> int:
        """Each label, background first; the style of each channel; noise."""
        return len(self._plan.labels.names) + 1 + self._plan.channels + 1

    @property
    def channels(self) -> int:
        """The image's."""
        return self._plan.channels

    def given(self, example: Example, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return label channels, the image's own style, and noise."""
        labels = len(self._plan.labels.names)
        return conditions(example.mask, style_of(example.image, example.mask, labels), rng)

    def target(self, example: Example) -> NDArray[np.float32]:
        """Return the image."""
        return example.image

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean distance: what the rival's part is added to."""
        return functional.l1_loss(outputs.float(), target)

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Intensities as they are."""
        return outputs.float()

    def decode(self, activated: NDArray[np.float32], shape: Shape) -> Answer:
        """Resample linearly."""
        return Answer(image=resample(activated, shape, order=1))

    def compare(self, answer: Answer, truth: Truth, *, thorough: bool = True) -> Record:
        """Compare a generated image with the real one of the same label map."""
        if answer.image is None or truth.image is None or truth.mask is None:
            raise ValueError("a generated image is compared with the real one of its label map")
        mask = self._plan.labels.channels(truth.mask)
        said, true = (describe(image, mask, self._names) for image in (answer.image, truth.image))
        return {name: _record(said.get(name), true.get(name), self._plan.channels) for name in self._names}

    def calibrate(self, records: Sequence[Record]) -> Calibrations:
        """There are no probabilities of whole images."""
        return {}

    def summarise(self, records: Sequence[Record]) -> Summary:
        """Return each measure's mean over the images that have it."""
        return {name: {key: _mean([record[name][key] for record in records]) for key in MEASURES} for name in self._names}


MEASURES = ("likeness", "mean_off", "texture_off")


def style_of(image: NDArray[np.float32], mask: Mask, labels: int) -> Style:
    """Return an image's style."""
    counts = np.bincount(mask.ravel(), minlength=labels + 1)
    sums = [np.bincount(mask.ravel(), weights=channel.ravel(), minlength=labels + 1) for channel in image]
    style: Style = (np.stack(sums) / np.maximum(counts, 1)).astype(np.float32)
    return style


def conditions(mask: Mask, style: Style, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return what the generator is shown, ``(labels + 1 + C + 1, I, J, K)``: see the module."""
    numbers = np.arange(style.shape[1], dtype=mask.dtype).reshape(-1, 1, 1, 1)
    noise = rng.standard_normal((1, *mask.shape), dtype=np.float32)
    return np.concatenate([(mask == numbers).astype(np.float32), style[:, mask], noise])


def _record(said: NDArray[np.float64] | None, true: NDArray[np.float64] | None, channels: int) -> dict[str, float]:
    if said is None or true is None:
        return dict.fromkeys(MEASURES, float("nan"))
    off = np.abs(said - true).reshape(channels, -1)
    return {
        "likeness": float(np.exp(-off.mean())),
        "mean_off": float(off[:, 0].mean()),
        "texture_off": float(off[:, 2:].mean()),
    }


def _mean(values: Sequence[float]) -> float:
    real = [value for value in values if not np.isnan(value)]
    return float(np.mean(real)) if real else float("nan")
