"""Progression: what became of each label between two time points, how fast, and whether that is growth.

The network sees both scans of a pair (see `medray.progression.pair`) and says of each voxel what it was and what it became. A
label's volume at each time point is what that expects; the growth between them, as a logarithm, tells the class: a change below
`Plan.least_change` is none. As one network reads both scans, what it doubts it doubts in both, and most of that cancels out.
Exchanging the scans exchanges growth and shrinkage exactly (see `medray.models.siamese`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medray.evaluation.calibration import Calibration, Calibrations
from medray.evaluation.classification import auc
from medray.evaluation.overlap import overlap
from medray.imaging.transitions import Transitions
from medray.preprocessing.blocks import Block, Blocks
from medray.preprocessing.plan import Plan
from medray.tasks.answer import Answer, Course, Example, Record, Summary, Truth
from medray.tasks.segmentation import Segmentation
from medray.types import Mask, Shape

__all__ = ["CLASSES", "Progression"]

CLASSES = ("shrunk", "stable", "grown")
DOUBT = 0.1
"""Voxels of a lower probability of anything but background don't count: there are a million of them."""
SOFTNESS = 0.1
"""Growth by which the class's log-odds change by one, before validation says better."""
LEAST_SPREAD = 0.02
"""Of growth's errors: validation has few pairs, which may all be right by chance."""
NORMAL, LOGISTIC = 1.4826, math.sqrt(3) / math.pi
"""From a median absolute error to a standard deviation, and from that to the scale of a logistic curve."""
HALF = 0.5
"""Voxels that are added to both volumes, so that what is new or vanished has a growth, too (Haldane's correction)."""


class Progression:
    """See `medray.tasks.task.Task`. Measures: Dice of both time points and of what changed, growth's error, AUC of classes.

    Args:
        plan: For transitions, their weights and the least change.
        calibration: How steep the curves of the classes' probabilities are.
    """

    measure = "dice"

    def __init__(self, plan: Plan, calibration: Calibrations) -> None:
        self._calibration = calibration
        self._transitions = Transitions.of(plan.labels)
        self._voxels = Segmentation(plan, {})
        self._least = math.log1p(plan.least_change)
        self._voxel_mm3 = math.prod(plan.spacing_mm)

    @property
    def inputs(self) -> int:
        """Both scans' channels, the earlier one's first."""
        return self._voxels.inputs

    @property
    def channels(self) -> int:
        """One a transition, background's to background first."""
        return self._voxels.channels

    def given(self, example: Example, rng: np.random.Generator) -> NDArray[np.float32]:
        """The pair as it is."""
        return example.image

    def target(self, example: Example) -> NDArray[np.uint8]:
        """Return the transition of each voxel ``(1, I, J, K)``."""
        return self._voxels.target(example)

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return Dice plus weighted cross-entropy of transitions."""
        return self._voxels.loss(outputs, target)

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities of transitions."""
        return self._voxels.activate(outputs)

    def decode(self, blocks: Blocks, shape: Shape) -> Answer:
        """Take each voxel's most probable transition, and of each label what is expected of its volumes."""
        expected = np.zeros(self.channels)
        mask = self._voxels.decode(blocks.through(_counted(blocks.parts, expected)), shape).mask
        return Answer(mask=mask, courses=self._courses(expected * self._voxel_mm3, self._voxel_mm3))

    def compare(self, answer: Answer, truth: Truth, *, thorough: bool = True) -> Record:
        """Put growth side by side, and measure masks against each other."""
        if answer.mask is None or truth.mask is None:
            raise ValueError("a progression is compared with a label map of a pair")
        voxel_mm3 = math.prod(truth.spacing_mm)
        true = self._courses(np.bincount(truth.mask.ravel(), minlength=self.channels).astype(np.float64) * voxel_mm3, voxel_mm3)
        return {
            name: {
                "growth": answer.courses[name].growth,
                "true_growth": true[name].growth,
                **answer.courses[name].probabilities,
                **self._overlaps(name, answer.mask[0], truth.mask),
            }
            for name in self._transitions.labels
        }

    def calibrate(self, records: Sequence[Record]) -> Calibrations:
        """Return for each label how steep its classes' curve is: by how far growth was off on pairs that weren't trained on."""
        found = {}
        for name in self._transitions.labels:
            errors = [abs(record[name]["growth"] - record[name]["true_growth"]) for record in records]
            if errors:
                spread = max(LEAST_SPREAD, NORMAL * float(np.median(errors)))
                found[name] = Calibration(slope=SOFTNESS / (spread * LOGISTIC))
        return found

    def summarise(self, records: Sequence[Record]) -> Summary:
        """Measure all pairs together."""
        return {name: self._measures([record[name] for record in records]) for name in self._transitions.labels}

    def _courses(self, mm3: NDArray[np.float64], voxel_mm3: float) -> dict[str, Course]:
        """Return each label's course from transitions' volumes ``(states²,)``."""
        before, after = self._transitions.before(mm3), self._transitions.after(mm3)
        courses = {}
        for number, name in enumerate(self._transitions.labels, start=1):
            was, became = float(before[number]), float(after[number])
            growth = math.log((became + HALF * voxel_mm3) / (was + HALF * voxel_mm3))
            courses[name] = Course(was, became, growth, self._classes(name, growth))
        return courses

    def _classes(self, name: str, growth: float) -> Mapping[str, float]:
        """Return how probable each class is: an error as large as those of validation would have to lead over the bounds."""
        curve = self._calibration.get(name, Calibration())

        def beyond(size: float) -> float:
            return 1 / (1 + math.exp(min(700.0, curve.slope * (self._least - size) / SOFTNESS)))

        shrunk, grown = beyond(-growth), beyond(growth)
        return {"shrunk": shrunk, "stable": max(0.0, 1 - shrunk - grown), "grown": grown}

    def _overlaps(self, name: str, said: Mask, true: Mask) -> dict[str, float]:
        number = 1 + self._transitions.labels.index(name)
        ours, theirs = ([one == number for one in self._transitions.parted(mask)] for mask in (said, true))
        both = [overlap(mine, its).dice for mine, its in zip(ours, theirs, strict=True)]
        gained, lost = (overlap(ours[after] & ~ours[1 - after], theirs[after] & ~theirs[1 - after]).dice for after in (1, 0))
        return {"dice": _mean(both), "change_dice": _mean([gained, lost])}

    def _measures(self, found: Sequence[Mapping[str, float]]) -> dict[str, float]:
        growth, true = (np.array([one[key] for one in found]) for key in ("growth", "true_growth"))
        classes = [self._class_of(value) for value in true.tolist()]
        said = [max(CLASSES, key=lambda word, one=one: one[word]) for one in found]  # type: ignore[misc]
        return {
            "dice": _mean([one["dice"] for one in found]),
            "change_dice": _mean([one["change_dice"] for one in found]),
            "growth_error": float(np.median(np.abs(growth - true))) if found else float("nan"),
            "accuracy": _mean([float(a == b) for a, b in zip(classes, said, strict=True)]),
            **{
                f"auc_{word}": auc([one[word] for one in found], [name == word for name in classes])
                for word in ("grown", "shrunk")
            },
        }

    def _class_of(self, growth: float) -> str:
        return "grown" if growth > self._least else "shrunk" if growth < -self._least else "stable"


def _counted(parts: Iterable[Block], expected: NDArray[np.float64]) -> Iterator[Block]:
    """Pass blocks on, and add up their probabilities ``(states², ...)`` where something may be."""
    for start, values in parts:
        seen = values[:, values[0] <= 1 - DOUBT]
        expected += seen.sum(axis=1, dtype=np.float64)
        yield start, values


def _mean(values: Sequence[float]) -> float:
    """Return the mean of what is a number."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")
