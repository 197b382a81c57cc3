"""Segmentation: each voxel has one label or none or, where targets overlap, any number of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medray.evaluation.calibration import Calibration, Calibrations
from medray.evaluation.overlap import overlap
from medray.evaluation.pieces import best_size, dice_from, kept_by_size, without_pieces
from medray.evaluation.surface import surface_distance
from medray.models.lean import lean_monai
from medray.preprocessing.blocks import Blocks
from medray.preprocessing.plan import Plan
from medray.preprocessing.resample_argmax import Argmax
from medray.tasks.answer import Answer, Example, Measured, Record, Summary, Truth
from medray.types import Mask, Shape

with lean_monai():
    from monai.losses import DiceCELoss, DiceLoss

__all__ = ["Segmentation"]


class Segmentation:
    """See `medray.tasks.task.Task`. Measures: Dice, HD95, surface Dice at 1 mm, relative volume error.

    Args:
        plan: For labels, targets and their weights.
        calibration: How small a piece of a target may be.
    """

    measure = "dice"

    def __init__(self, plan: Plan, calibration: Calibrations) -> None:
        self._calibration = calibration
        self._voxel_ml = math.prod(plan.spacing_mm) / 1000
        self._inputs = plan.channels
        self._targets = plan.targets
        self._overlapping = bool(plan.regions)
        self._values = [plan.values(target) for target in plan.targets]
        self._numbers = [plan.numbers(target) for target in plan.targets]
        self._one_piece = frozenset(plan.one_piece)
        self._weights = torch.tensor(plan.target_weights)
        # Batch Dice: a label that is in no patch of the batch but one still has a gradient everywhere.
        self._several = DiceLoss(sigmoid=True, batch=True)
        self._single = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True, weight=self._weights)

    @property
    def inputs(self) -> int:
        """The image's channels."""
        return self._inputs

    @property
    def channels(self) -> int:
        """One a target, after background's where each voxel has one label at most."""
        return len(self._targets) + int(not self._overlapping)

    def given(self, example: Example, rng: np.random.Generator) -> NDArray[np.float32]:
        """The image as it is."""
        return example.image

    def target(self, example: Example) -> NDArray[np.uint8]:
        """Return the channel of each voxel ``(1, I, J, K)`` or, where targets overlap, 0 and 1 for each ``(C, I, J, K)``."""
        if self._overlapping:
            return np.stack([np.isin(example.mask, numbers) for numbers in self._numbers]).astype(np.uint8)
        table = np.zeros(256, np.uint8)
        for channel, numbers in enumerate(self._numbers, start=1):
            table[list(numbers)] = channel
        return table[example.mask][np.newaxis]

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return Dice plus weighted cross-entropy, halved at each coarser depth (Isensee et al. 2021)."""
        depths = outputs.unbind(1) if outputs.ndim == target.ndim + 1 else (outputs,)
        weights = [0.5**depth for depth in range(len(depths))]
        losses = [weight * self._loss(depth.float(), target) for weight, depth in zip(weights, depths, strict=True)]
        return torch.stack(losses).sum() / sum(weights)

    def _loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if not self._overlapping:
            loss: torch.Tensor = self._single.to(logits.device)(logits, target)
            return loss
        weights = self._weights.to(logits.device)[:, None, None, None]
        wrong: torch.Tensor = self._several(logits, target)
        return wrong + functional.binary_cross_entropy_with_logits(logits, target.float(), pos_weight=weights)

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities: softmax over channels, or a sigmoid for each where targets overlap."""
        return outputs.float().sigmoid() if self._overlapping else outputs.float().softmax(dim=1)

    def decode(self, blocks: Blocks, shape: Shape) -> Answer:
        """Resample linearly, take the most probable label or each above one half, and leave out pieces that can't be."""
        voxel_ml = self._voxel_ml * math.prod(blocks.grid) / math.prod(shape)
        smallest = [self._calibration.get(name, Calibration()).smallest_ml / voxel_ml for name in self._targets]
        rules = [(size, name in self._one_piece) for size, name in zip(smallest, self._targets, strict=True)]
        if self._overlapping:
            masks = _above_half(blocks, shape, len(self._targets))
            return Answer(
                mask=np.stack([_left(mask > 0, *rule) for mask, rule in zip(masks, rules, strict=True)]).astype(np.uint8)
            )
        found = Argmax(blocks.grid, shape, seconds=any(size or alone for size, alone in rules))
        for start, values in blocks.parts:
            found.add(start, values)
        for channel, rule in enumerate(rules, start=1):
            if any(rule):
                said = found.result == channel
                lost = said & ~_left(said, *rule)
                found.result[lost] = found.next_best(lost)
        table = np.zeros(256, np.uint8)
        table[1 : len(self._values) + 1] = [values[0] for values in self._values]
        return Answer(mask=table[found.result][np.newaxis])

    def compare(self, answer: Answer, truth: Truth, *, thorough: bool = True) -> Record:
        """Measure each target's masks against each other."""
        if answer.mask is None or truth.mask is None:
            raise ValueError("a segmentation is compared with a label map")
        records: dict[str, dict[str, Any]] = {}
        for index, (name, values) in enumerate(zip(self._targets, self._values, strict=True)):
            said = answer.mask[index] > 0 if self._overlapping else answer.mask[0] == values[0]
            true = np.isin(truth.mask, values) if len(values) > 1 else truth.mask == values[0]
            found = overlap(said, true)
            records[name] = {"dice": found.dice}
            if not thorough:
                records[name]["kept"] = kept_by_size(said, true, math.prod(truth.spacing_mm) / 1000)
            else:
                surface = surface_distance(said, true, truth.spacing_mm)
                records[name] |= {
                    "hd95_mm": surface.hd95_mm,
                    "surface_dice": surface.surface_dice,
                    "volume_error": found.volume_error,
                }
        return records

    def calibrate(self, records: Sequence[Record]) -> Calibrations:
        """Return how small a piece of a target may be, where leaving out smaller ones is better."""
        found = {name: best_size([record[name]["kept"] for record in records]) for name in self._targets}
        return {name: Calibration(smallest_ml=size) for name, size in found.items() if size and name not in self._one_piece}

    def summarise(self, records: Sequence[Record]) -> Summary:
        """Return each measure's mean over the images that have it; of HD95, which may be infinite, the median.

        Of records that know their pieces, Dice is that of the calibration's.
        """
        summary = {name: _means([record[name] for record in records]) for name in self._targets}
        for name in self._calibration.keys() & summary.keys():
            if records and "kept" in records[0][name]:
                kept = [record[name]["kept"] for record in records]
                summary[name]["dice"] = dice_from(kept, self._calibration[name].smallest_ml)
        return summary


def _left(mask: NDArray[np.bool_], smallest: float, alone: bool) -> NDArray[np.bool_]:
    """Return a target's mask without pieces that are too small, or that are none where a target is one."""
    return without_pieces(mask, smallest=smallest, largest_only=alone) if smallest or alone else mask


def _above_half(blocks: Blocks, shape: Shape, count: int) -> list[Mask]:
    """Return where each channel of a map, resampled, is above one half: 0 or 1."""
    found = [Argmax(blocks.grid, shape) for _ in range(count)]
    for start, values in blocks.parts:
        half = np.full(values.shape[1:], 0.5, np.float32)
        for one, channel in zip(found, values, strict=True):
            one.add(start, np.stack([half, channel]))
    return [one.result for one in found]


def _means(measured: Sequence[Measured]) -> dict[str, float]:
    summary = {}
    for measure in (name for name in measured[0] if name != "kept") if measured else ():
        values = np.array([found[measure] for found in measured], np.float64)
        values = values[~np.isnan(values)]
        middle = np.median if measure == "hd95_mm" else np.mean
        summary[measure] = float(middle(values)) if values.size else float("nan")
    return summary
