"""Overlap of label maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medray.types import Mask

__all__ = ["dice"]


def dice(predicted: Mask, truth: Mask, labels: Mapping[str, int]) -> dict[str, float]:
    """Return each label's Dice coefficient 2·|A∩B| / (|A|+|B|) (Dice, Ecology 26 (1945) 297-302).

    Args:
        predicted: ``(I, J, K)``.
        truth: ``(I, J, K)`` on the same grid.
        labels: Name to value.

    Returns:
        Name to 0…1; NaN where a label is in neither, so that a mean can leave it out.
    """
    pairs = np.bincount((predicted.astype(np.int64) * 256 + truth).ravel(), minlength=65536).reshape(256, 256)
    scores = {}
    for name, value in labels.items():
        total = pairs[value].sum() + pairs[:, value].sum()
        scores[name] = float(2 * pairs[value, value] / total) if total else float("nan")
    return scores
