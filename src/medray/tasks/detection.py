"""Detection: a box around each thing, from a map of how near each voxel is to a thing's middle.

After Zhou et al., "Objects as Points", arXiv:1904.07850, in three dimensions and without strides: channels are one heat map a
target and then, a target too, the logarithms of a box's three sides in voxels, which count at its middle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from torch.nn import functional

from medray.evaluation.calibration import Calibrations
from medray.evaluation.detection import Matches, average_precision, box_iou, froc, match_boxes, sensitivity_at
from medray.imaging.boxes import Box, corners, triple
from medray.preprocessing.blocks import Blocks
from medray.preprocessing.plan import Plan
from medray.tasks.answer import Answer, Example, Measured, Record, Summary, Truth
from medray.tasks.heat import PRIOR, boxes_of, focal_loss, warmth
from medray.types import Shape

__all__ = ["Detection", "matches_of"]

SIZE_WEIGHT = 0.5
NEIGHBOURHOOD = 5
LEAST_SCORE = 0.02
MOST_BOXES = 200
SAME_THING = 0.1
HIT = {2: 0.5, 3: 0.1}
"""The least overlap over union of a hit in two and three dimensions; 0.1 after Baumgartner et al., MICCAI 2021."""


class Detection:
    """See `medray.tasks.task.Task`. Measures: FROC, sensitivity at one false positive a scan, average precision.

    Args:
        plan: For labels and targets.
        calibration: None: scores are ranks only.
    """

    measure = "froc"

    def __init__(self, plan: Plan, calibration: Calibrations) -> None:
        self._inputs = plan.channels
        self._targets = plan.targets
        self._weights = torch.tensor(plan.target_weights)
        self._values = [plan.values(name)[0] for name in plan.targets]
        self._numbers = [plan.numbers(name)[0] for name in plan.targets]

    @property
    def inputs(self) -> int:
        """The image's channels."""
        return self._inputs

    @property
    def channels(self) -> int:
        """One heat map and three sides a target."""
        return 4 * len(self._targets)

    def given(self, example: Example, rng: np.random.Generator) -> NDArray[np.float32]:
        """The image as it is."""
        return example.image

    def target(self, example: Example) -> NDArray[np.float32]:
        """Return heat and logarithms of sides: ``(C, I, J, K)``."""
        count, mask = len(self._targets), example.mask
        answer = np.zeros((self.channels, *mask.shape), np.float32)
        for number, heat, sides in zip(self._numbers, answer[:count], _triples(answer[count:]), strict=True):
            for box in boxes_of(mask == number, ""):
                around = warmth(box, mask.shape)
                nearer = around > heat
                heat[nearer] = around[nearer]
                sides[:, nearer] = np.log(np.subtract(box.high, box.low))[:, np.newaxis]
        return answer

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the focal loss of the heat, less strict near a middle, plus the sides' distance, by how warm a voxel is."""
        count = len(self._targets)
        logits, heat = outputs[:, :count].float() - PRIOR, target[:, :count]
        focal = focal_loss(logits, heat, self._weights.to(outputs.device)[:, None, None, None])
        warm = (heat**2).repeat_interleave(3, dim=1)
        apart = functional.l1_loss(outputs[:, count:].float(), target[:, count:], reduction="none")
        return focal + SIZE_WEIGHT * (apart * warm).sum() / warm.sum().clamp(min=1e-3)

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities of a middle, and sides as they are."""
        count = len(self._targets)
        return torch.cat([(outputs[:, :count].float() - PRIOR).sigmoid(), outputs[:, count:].float()], dim=1)

    def decode(self, blocks: Blocks, shape: Shape) -> Answer:
        """Take the heat's peaks; of boxes on the same thing the surest."""
        activated = blocks.whole()
        here: Shape = (activated.shape[1], activated.shape[2], activated.shape[3])
        boxes: list[Box] = []
        count = len(self._targets)
        for name, heat, sides in zip(self._targets, activated[:count], _triples(activated[count:]), strict=True):
            boxes += _apart(_peaks(heat, sides, name))
        return Answer(boxes=[box.scaled(here, shape) for box in sorted(boxes, key=lambda box: -box.score)])

    def compare(self, answer: Answer, truth: Truth, *, thorough: bool = True) -> Record:
        """Match each target's boxes."""
        if truth.mask is None:
            raise ValueError("a detection is compared with a label map")
        least, records = HIT[2 if truth.mask.shape[2] == 1 else 3], {}
        for name, value in zip(self._targets, self._values, strict=True):
            said, true = [box for box in answer.boxes if box.label == name], boxes_of(truth.mask == value, name)
            found = match_boxes(corners(said), [box.score for box in said], corners(true), iou=least)
            records[name] = {"scores": list(found.scores), "hits": list(found.hits), "truths": found.truths}
        return records

    def calibrate(self, records: Sequence[Record]) -> Calibrations:
        """Scores are ranks only."""
        return {}

    def summarise(self, records: Sequence[Record]) -> Summary:
        """Measure all scans together."""
        summary = {}
        for name in self._targets:
            scans = [matches_of(record[name]) for record in records]
            summary[name] = {
                "froc": froc(scans),
                "sensitivity_at_1_false_positive": sensitivity_at(scans, 1.0),
                "average_precision": average_precision(scans),
            }
        return summary


def matches_of(measured: Measured) -> Matches:
    """Return what `Detection.compare` recorded of one target in one scan."""
    return Matches(tuple(measured["scores"]), tuple(measured["hits"]), int(measured["truths"]))


def _triples(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """View ``(3 · targets, I, J, K)`` as ``(targets, 3, I, J, K)``."""
    return channels.reshape(-1, 3, *channels.shape[1:])


def _peaks(heat: NDArray[np.float32], sides: NDArray[np.float32], name: str) -> list[Box]:
    """Return a box at each voxel that is warmer than all around it, the warmest first."""
    highest = maximum_filter(heat, size=[min(NEIGHBOURHOOD, size) for size in heat.shape], mode="nearest")
    places = np.argwhere((heat == highest) & (heat >= LEAST_SCORE))
    scores = heat[tuple(places.T)]
    boxes = []
    for index in np.argsort(-scores, kind="stable")[:MOST_BOXES]:
        i, j, k = places[index].tolist()
        half = np.exp(np.clip(sides[:, i, j, k], 0, 7)) / 2
        low, high = (i - half[0], j - half[1], k - half[2]), (i + half[0], j + half[1], k + half[2])
        boxes.append(Box(name, triple(low), triple(high), float(scores[index])))
    return boxes


def _apart(boxes: Sequence[Box]) -> list[Box]:
    """Leave out a box that lies on a surer one (the order is by score)."""
    overlaps = box_iou(corners(boxes), corners(boxes))
    kept: list[int] = []
    for index in range(len(boxes)):
        if not any(overlaps[index, other] > SAME_THING for other in kept):
            kept.append(index)
    return [boxes[index] for index in kept]
