"""Synthesis: an image for a label map. What is generated shows what it is asked for, so that it comes with its truth.

The network is shown, for each place: which label is there, how bright that label is in this image, and noise as strong as that
label's grain (both are a style that is read off a real image, or drawn anew). Against its rival (`medray.training.adversarial`)
it learns to fill in what these leave open. Where a grain lies is chance, so nothing compares it voxel by voxel: what is
smoother is held to the real image, and of what is finer only how strong it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from medray.evaluation.calibration import Calibrations
from medray.evaluation.fidelity import describe
from medray.preprocessing.blocks import Blocks
from medray.preprocessing.plan import Plan
from medray.preprocessing.resample import resample
from medray.tasks.answer import Answer, Example, Record, Summary, Truth
from medray.types import Mask, Shape

__all__ = ["Style", "Synthesis", "conditions", "style_of"]

MAD_TO_DEVIATION = 1.4826
"""Of normal noise: 1 / Φ⁻¹(3/4)."""
TEXTURE = 0.25
"""How much the strength of textures counts beside the distance of smoothed images."""
WINDOW = 8
"""Voxels over which a texture's strength is taken."""
FAINT = 1e-4
"""Power, in normalised units, below which textures are all the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Style:
    """How an image's labels look.

    Attributes:
        bright: Median intensity of each channel number in each channel: ``(C, labels + 1)``.
        grain: Deviation of what is finer than a voxel's neighbourhood, ``(C, labels + 1)``, positive; by medians, so that an
            edge isn't taken for noise.
        there: Which channel numbers the image has, ``(labels + 1,)``; the others are 0 in both.
    """

    bright: NDArray[np.float32]
    grain: NDArray[np.float32]
    there: NDArray[np.bool_]


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
        """Each label, background first; how bright each channel is; each one's noise."""
        return len(self._plan.labels.names) + 1 + 2 * self._plan.channels

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
        """Return how far smoothed images, and the strengths of two bands of texture, are apart; the rival adds its part."""
        pairs = list(zip(_bands(outputs.float()), _bands(target), strict=True))
        textures = [functional.l1_loss(_strength(said), _strength(true)) for said, true in pairs[:-1]]
        return functional.l1_loss(*pairs[-1]) + TEXTURE * torch.stack(textures).mean()

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Intensities as they are."""
        return outputs.float()

    def decode(self, blocks: Blocks, shape: Shape) -> Answer:
        """Resample linearly."""
        return Answer(image=resample(blocks.whole(), shape, order=1))

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
    """Return the style of an image ``(C, I, J, K)`` whose channel numbers are ``(I, J, K)``."""
    bright, grain = np.zeros((2, len(image), labels + 1), np.float32)
    there = np.bincount(mask.ravel(), minlength=labels + 1) > 0
    fine = np.abs(image - np.stack([gaussian_filter(channel, 1.0) for channel in image]))
    for number in np.flatnonzero(there):
        where = mask == number
        bright[:, number] = np.median(image[:, where], axis=1)
        grain[:, number] = MAD_TO_DEVIATION * np.median(fine[:, where], axis=1)
    return Style(bright, grain, there)


def conditions(mask: Mask, style: Style, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return what the generator is shown, ``(labels + 1 + 2 C, I, J, K)``: see the module."""
    numbers = np.arange(len(style.there), dtype=mask.dtype).reshape(-1, 1, 1, 1)
    noise = rng.standard_normal((len(style.grain), *mask.shape), dtype=np.float32) * style.grain[:, mask]
    return np.concatenate([(mask == numbers).astype(np.float32), style.bright[:, mask], noise])


def _bands(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what three voxels' mean leaves out, what five voxels' leaves out of that, and the first of these means."""
    first, second = (_mean_over(images, side, step=1) for side in (3, 5))
    return images - first, first - second, first


def _strength(band: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of a band's power around each place."""
    return torch.log(_mean_over(band.square(), WINDOW, step=WINDOW // 2) + FAINT)


def _mean_over(images: torch.Tensor, side: int, *, step: int) -> torch.Tensor:
    """Return means over windows of ``(B, C, I, J, K)``; a window of odd side and step 1 has its voxel in the middle."""
    sides = [min(side, have) for have in images.shape[2:]]
    return functional.avg_pool3d(
        images,
        sides,
        stride=[min(step, have) for have in sides],
        padding=[have // 2 if step == 1 else 0 for have in sides],
        count_include_pad=False,
    )


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
