"""Overlap of masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Overlap", "overlap"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far two masks cover each other.

    Attributes:
        dice: 2·|A∩B| / (|A|+|B|), 0 to 1 (Dice, Ecology 26 (1945) 297-302); NaN when both are empty, so that a mean can leave
            it out.
        volume_error: (|A| - |B|) / |B| for a prediction A of a truth B: -0.1 is a tenth too small; NaN when the truth is empty.
    """

    dice: float
    volume_error: float


def overlap(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Overlap:
    """Measure two masks ``(I, J, K)`` on the same grid."""
    both, said, true = (int(np.count_nonzero(mask)) for mask in (predicted & truth, predicted, truth))
    return Overlap(
        dice=2 * both / (said + true) if said + true else float("nan"),
        volume_error=(said - true) / true if true else float("nan"),
    )
