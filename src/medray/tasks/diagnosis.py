"""Diagnosis: which findings an image has, how probable each is, and where in the image it shows.

The network gives evidence at each place, and an image's lies between its places' mean and their highest:
log(mean(exp(r·e)))/r. One small lesion is enough, and learning needs no more than a word for the whole image (Pinheiro &
Collobert, CVPR 2015, arXiv:1411.6228, eq. 6; r = 5 as there).
Where label maps say where a finding is, the evidence is taught to be there, as heat in the finding's middle (see
`medray.tasks.heat`): patches are enough then, and far fewer images. There is no word for the whole patch beside it, which made
networks remember patches: scans of 60 people taught them to tell others apart by an AUC of 0.76 with it and 1.00 without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medray.evaluation.calibration import Calibrations, calibrated, fit_platt
from medray.evaluation.classification import auc, expected_calibration_error, sensitivity_at_specificity
from medray.preprocessing.blocks import Blocks
from medray.preprocessing.plan import Plan
from medray.preprocessing.resample import resample
from medray.tasks.answer import Answer, Example, Measured, Record, Summary, Truth
from medray.tasks.heat import PRIOR, coarser, focal_loss, heat_of
from medray.types import Shape

__all__ = ["Diagnosis"]

SPECIFICITY = 0.9
SHARPNESS = 5.0


class Diagnosis:
    """See `medray.tasks.task.Task`. Measures: AUC, sensitivity at 90 % specificity, expected calibration error.

    Args:
        plan: For targets, their weights, whether an image has exactly one of them, and whether label maps locate them.
        calibration: What the network's probabilities mean.
    """

    measure = "auc"

    def __init__(self, plan: Plan, calibration: Calibrations) -> None:
        self._calibration = calibration
        self._inputs = plan.channels
        self._targets = plan.targets
        self._exclusive = plan.exclusive
        self._stride = plan.network.stride
        self._weights = torch.tensor(plan.target_weights)
        self._numbers = [plan.numbers(name)[0] for name in plan.targets] if plan.located else []

    @property
    def inputs(self) -> int:
        """The image's channels."""
        return self._inputs

    @property
    def channels(self) -> int:
        """One a target."""
        return len(self._targets)

    def given(self, example: Example, rng: np.random.Generator) -> NDArray[np.float32]:
        """The image as it is."""
        return example.image

    def target(self, example: Example) -> NDArray[np.float32]:
        """Return 1 for each target that is in the image, else 0: ``(C,)``; or, located, its heat ``(C, I, J, K)``."""
        if self._numbers:
            return np.stack([heat_of(example.mask == number) for number in self._numbers])
        return np.array([name in example.present for name in self._targets], np.float32)

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the focal loss of located evidence, or the cross-entropy of images: between targets, or of each by itself."""
        evidence, weights = outputs.float() - PRIOR, self._weights.to(outputs.device)
        if self._numbers:
            return focal_loss(*coarser(evidence, target, self._stride), weights[:, None, None, None])
        pooled = _pooled(evidence.flatten(2))
        if self._exclusive:
            return functional.cross_entropy(pooled, target, weight=weights)
        return functional.binary_cross_entropy_with_logits(pooled, target, pos_weight=weights)

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Evidence: it is pooled over the whole image later."""
        return outputs.float() - PRIOR

    def decode(self, blocks: Blocks, shape: Shape) -> Answer:
        """Pool the evidence; a voxel's saliency is its share of the strongest one's, times the probability."""
        activated = blocks.whole()
        pooled = _pooled(torch.from_numpy(activated).double().flatten(1)[None])[0]
        said = (pooled.softmax(dim=0) if self._exclusive else pooled.sigmoid()).tolist()
        meant = calibrated(dict(zip(self._targets, said, strict=True)), self._calibration, exclusive=self._exclusive)
        share = np.exp(activated - activated.max(axis=(1, 2, 3), keepdims=True))
        scale = np.array(list(meant.values()), np.float32)[:, None, None, None]
        return Answer(saliency=np.clip(resample(share * scale, shape, order=1), 0, 1), probabilities=meant)

    def compare(self, answer: Answer, truth: Truth, *, thorough: bool = True) -> Record:
        """Put probability and truth side by side."""
        return {
            name: {"probability": answer.probabilities[name], "present": int(name in truth.present)} for name in self._targets
        }

    def calibrate(self, records: Sequence[Record]) -> Calibrations:
        """Return each target's curve."""
        found = {name: [record[name] for record in records] for name in self._targets}
        return {
            name: fit_platt([item["probability"] for item in items], [item["present"] for item in items])
            for name, items in found.items()
        }

    def summarise(self, records: Sequence[Record]) -> Summary:
        """Measure all images together."""
        return {name: _measures([record[name] for record in records]) for name in self._targets}


def _pooled(evidence: torch.Tensor) -> torch.Tensor:
    """Return the evidence of whole images ``(B, C)`` from that of their places ``(B, C, N)``: see the module."""
    return ((SHARPNESS * evidence).logsumexp(dim=2) - math.log(evidence.shape[2])) / SHARPNESS


def _measures(found: Sequence[Measured]) -> dict[str, float]:
    probabilities, present = [item["probability"] for item in found], [item["present"] for item in found]
    return {
        "auc": auc(probabilities, present),
        f"sensitivity_at_{SPECIFICITY * 100:.0f}_specificity": sensitivity_at_specificity(probabilities, present, SPECIFICITY),
        "calibration_error": expected_calibration_error(probabilities, present),
    }
