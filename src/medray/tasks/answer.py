"""What a task says of an image, and what is true of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medray.imaging.boxes import Box
from medray.types import Mask, Triple, Voxels

__all__ = ["Answer", "Example", "Measured", "Record", "Summary", "Truth"]

Measured: TypeAlias = Mapping[str, Any]
"""Measurement to value, JSON-ready."""

Record: TypeAlias = Mapping[str, Measured]
"""Target to what was measured of it in one image."""

Summary: TypeAlias = dict[str, dict[str, float]]
"""Target to measure to number: of many images. NaN where they have none."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A patch or a whole image to learn from, on the plan's grid.

    Attributes:
        image: ``(C, I, J, K)``, normalised.
        mask: ``(I, J, K)`` channel numbers of the plan's labels; all background where the task needs no label maps.
        present: What is in the whole image.
    """

    image: NDArray[np.float32]
    mask: Mask
    present: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a task says of one image; each task fills what it knows.

    Attributes:
        mask: ``(C, I, J, K)``: one channel of label values or, where targets overlap, a channel of 0 and 1 for each.
        saliency: ``(C, I, J, K)`` float32, 0 to 1: how much each voxel speaks for each target.
        probabilities: Target to probability.
        boxes: The surest first.
        image: Of a synthesis: ``(C, I, J, K)`` float32, normalised.
    """

    mask: Voxels | None = None
    saliency: Voxels | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    boxes: Sequence[Box] = ()
    image: Voxels | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known of an image.

    Attributes:
        mask: Label values ``(I, J, K)``, or None.
        spacing_mm: Of the mask's grid.
        present: Findings and labels that are there.
        image: Normalised ``(C, I, J, K)``, or None where no task asks for it.
    """

    mask: Mask | None
    spacing_mm: Triple
    present: frozenset[str]
    image: Voxels | None = None
