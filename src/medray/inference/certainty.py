"""How sure a model is of an answer as a whole: two numbers, taken while its map goes by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medray.preprocessing.blocks import Block, Blocks
from medray.tasks.answer import Answer

__all__ = ["Certainty", "Onlooker", "certainty_of"]

EVERY = 4
"""Along each axis one voxel in so many is looked at, of a block longer than `LOOKED_AT`."""
LOOKED_AT = 16
OPEN = 0.05
"""Where a target is at least so probable, it isn't out of the question."""
LEAST = 1e-7


@dataclass(frozen=True, slots=True)
class Certainty:
    """How sure a model is, by its own probabilities.

    Attributes:
        confidence: Of a segmentation: the mean probability of the target that wins, over the voxels where one does, or of there
            being none where none does. Of a diagnosis: of what is more probable than not, the mean over findings. Of a
            detection: the first box's score, or 1 without boxes.
        entropy: In bits; of a segmentation the mean over voxels where a target isn't out of the question, of a diagnosis over
            findings; 0 for certainty (Shannon, Bell Syst. Tech. J. 27 (1948) 379-423).
    """

    confidence: float
    entropy: float


class Onlooker:
    """Sees a segmentation's map go by.

    Args:
        regions: Whether targets may overlap: each channel is a yes or no of its own. Else the first channel is background.
    """

    def __init__(self, *, regions: bool) -> None:
        self._regions = regions
        self._sure = self._won = self._none = self._all = self._bits = self._open = 0.0

    def watched(self, blocks: Blocks) -> Blocks:
        """Return the same blocks; they are looked at as they come."""

        def parts() -> Iterator[Block]:
            for start, values in blocks.parts:
                self._look(values)
                yield start, values

        return blocks.through(parts())

    @property
    def certainty(self) -> Certainty:
        """What was seen."""
        confidence = self._sure / self._won if self._won else self._none / self._all if self._all else math.nan
        return Certainty(float(confidence), float(self._bits / self._open) if self._open else 0.0)

    def _look(self, values: NDArray[np.float32]) -> None:
        steps = (slice(None, None, EVERY if side > LOOKED_AT else 1) for side in values.shape[1:])
        seen = values[(slice(None), *steps)].reshape(len(values), -1)
        targets = seen if self._regions else seen[1:]
        best = targets.max(axis=0)
        none = 1 - best if self._regions else seen[0]
        won, asked = best > none, best > OPEN
        self._sure += float(best[won].sum())
        self._won += int(won.sum())
        self._none += float(none.sum())
        self._all += none.size
        open_to = seen[:, asked]
        bits = _binary(open_to).mean(axis=0) if self._regions else -(open_to * np.log2(np.maximum(open_to, LEAST))).sum(axis=0)
        self._bits += float(bits.sum())
        self._open += bits.size


def certainty_of(answer: Answer) -> Certainty:
    """Return how sure a model is of an answer without a map."""
    if answer.probabilities:
        values = np.fromiter(answer.probabilities.values(), np.float64)
        return Certainty(float(np.maximum(values, 1 - values).mean()), float(_binary(values).mean()))
    score = float(answer.boxes[0].score) if answer.boxes else 1.0
    return Certainty(score, float(_binary(np.array([score]))[0]))


def _binary(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the entropy of yes or no, in bits."""
    yes = np.clip(values.astype(np.float64), LEAST, 1 - LEAST)
    bits: NDArray[np.float64] = -(yes * np.log2(yes) + (1 - yes) * np.log2(1 - yes))
    return bits
