"""What a task says of an image, and what is true of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medray.imaging.boxes import Box
from medray.types import Mask, Triple, Voxels

__all__ = ["Answer", "Course", "Example", "Measured", "Record", "Summary", "Truth"]

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


@dataclass(frozen=True, slots=True)
class Course:
    """What becomes of a label between two time points.

    Attributes:
        before_mm3: Its volume at the earlier one, in the space midway between them.
        after_mm3: At the later one, in the same space.
        growth: The logarithm of their ratio: 0.7 is twice as much.
        probabilities: Of ``"shrunk"``, ``"stable"`` and ``"grown"``; together 1.
        years: Between them, where that is known.
    """

    before_mm3: float
    after_mm3: float
    growth: float
    probabilities: Mapping[str, float]
    years: float | None = None

    @property
    def rate_per_year(self) -> float | None:
        """Growth a year; None where the time isn't known."""
        return self.growth / self.years if self.years else None

    @property
    def kind(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    @property
    def percent(self) -> float:
        """Return by how many percent of what it was its volume changed."""
        return 100 * math.expm1(self.growth)

    def over(self, years: float | None) -> Course:
        """Return the course over so many years."""
        return replace(self, years=years)

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "before_mm3": round(self.before_mm3, 2),
            "after_mm3": round(self.after_mm3, 2),
            "growth": round(self.growth, 5),
            "rate_per_year": None if self.rate_per_year is None else round(self.rate_per_year, 5),
            "probabilities": {name: round(value, 5) for name, value in self.probabilities.items()},
        }


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a task says of one image; each task fills what it knows.

    Attributes:
        mask: ``(C, I, J, K)``: one channel of label values or, where targets overlap, a channel of 0 and 1 for each.
        saliency: ``(C, I, J, K)`` float32, 0 to 1: how much each voxel speaks for each target.
        probabilities: Target to probability.
        boxes: The surest first.
        image: Of a synthesis: ``(C, I, J, K)`` float32, normalised.
        courses: Of a progression: label to what became of it.
    """

    mask: Voxels | None = None
    saliency: Voxels | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    boxes: Sequence[Box] = ()
    image: Voxels | None = None
    courses: Mapping[str, Course] = field(default_factory=dict)


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
