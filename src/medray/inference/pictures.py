"""Pictures of an image with what a task says of it and what is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from medray.imaging.boxes import Box
from medray.imaging.geometry import closest_lps
from medray.imaging.volume import Volume
from medray.inference.page import COLOURS
from medray.preprocessing.plan import Plan
from medray.tasks.answer import Answer, Truth
from medray.types import Triple, Voxels

__all__ = ["LEGEND", "case_picture"]

LEGEND = (
    "Above: the image. Below, in colour: what the model says; in white: the truth. The patient's left is on the right of axial "
    "and coronal slices."
)
SURE = 0.2
"""Boxes with a lower score aren't drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """What is drawn over an upright image, all on its grid.

    Attributes:
        said: ``(targets, I, J, K)``, 0 to 1.
        true: ``(targets, I, J, K)`` binary, or None.
        boxes: The sure ones.
    """

    said: NDArray[np.float32]
    true: NDArray[np.bool_] | None
    boxes: Sequence[Box]


@dataclass(frozen=True, slots=True)
class View:
    """A plane through a volume: which axes run right and down or up, and where along the third it lies."""

    across: int
    along: int
    through: int
    at: int
    origin: Literal["upper", "lower"]

    def cut(self, voxels: Voxels) -> Any:
        """Take the slice of ``(I, J, K)`` as rows and columns."""
        return np.take(voxels, self.at, axis=self.through).T


def case_picture(volume: Volume, answer: Answer, truth: Truth, plan: Plan) -> Figure:
    """Draw slices through the most telling place: axial, coronal and sagittal, or the one there is.

    Args:
        volume: On its source grid.
        answer: On the same grid.
        truth: On the same grid.
        plan: For names.
    """
    layers = _layers(volume, answer, truth, plan)
    upright = volume.reoriented()
    grey = upright.voxels[0].astype(np.float32)
    # What a generator made stands below what it was to be like.
    made = grey if answer.image is None else closest_lps(volume.affine).apply(answer.image)[0].astype(np.float32)
    i, j, k = _place(grey, layers)
    views = [View(0, 1, 2, k, "upper")]
    if upright.shape[2] > 1:
        views += [View(0, 2, 1, j, "lower"), View(1, 2, 0, i, "lower")]
    figure = Figure(figsize=(4 * len(views), 8.2), facecolor="black", layout="constrained")
    bright = grey[grey > grey.mean()]
    window = (float(np.percentile(grey, 0.5)), float(np.percentile(bright if bright.size else grey, 99.7)))
    for column, view in enumerate(views):
        rows = [figure.add_subplot(2, len(views), column + 1 + row * len(views)) for row in range(2)]
        for axes, shown in zip(rows, (grey, made), strict=True):
            aspect = upright.spacing_mm[view.along] / upright.spacing_mm[view.across]
            axes.imshow(view.cut(shown), cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, origin=view.origin)
            axes.set_axis_off()
        _paint(rows[1], view, layers, upright.spacing_mm)
    handles = [Patch(color=COLOURS[index % len(COLOURS)], label=name) for index, name in enumerate(plan.targets)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, labelcolor="white")
    return figure


def _layers(volume: Volume, answer: Answer, truth: Truth, plan: Plan) -> Layers:
    orientation = closest_lps(volume.affine)
    values = [plan.values(name) for name in plan.targets]
    true = None
    if truth.mask is not None:
        true = np.stack([orientation.apply(np.isin(truth.mask, found)) for found in values])
    if answer.mask is not None and plan.regions:
        said = orientation.apply(answer.mask)
    elif answer.mask is not None:
        said = np.stack([orientation.apply(answer.mask[0] == found[0]) for found in values])
    elif answer.saliency is not None:
        said = orientation.apply(answer.saliency)
    else:
        said = np.zeros((len(values), *orientation.apply(volume.voxels).shape[1:]), np.float32)
    sure = [box.reoriented(orientation, volume.shape) for box in answer.boxes if box.score >= SURE]
    return Layers(said.astype(np.float32), true, sure)


def _place(grey: NDArray[np.float32], layers: Layers) -> tuple[int, int, int]:
    """Choose the slices with most of the rarest target, true or said, or the middle."""
    said = layers.said > 0.5
    for found in (said if layers.true is None else said | layers.true, layers.said > 0.5 * layers.said.max()):
        if found.any():
            counts = found.reshape(len(found), -1).sum(axis=1)
            rarest = found[int(np.argmin(np.where(counts > 0, counts, counts.max() + 1)))]
            i, j, k = (int(rarest.sum(axis=tuple(o for o in range(3) if o != axis)).argmax()) for axis in range(3))
            return i, j, k
    if layers.boxes:
        i, j, k = (round(sum(ends) / 2) for ends in zip(layers.boxes[0].low, layers.boxes[0].high, strict=True))
        return i, j, k
    i, j, k = (size // 2 for size in grey.shape)
    return i, j, k


def _paint(axes: Any, view: View, layers: Layers, spacing: Triple) -> None:
    for index, said in enumerate(layers.said):
        colour = np.zeros((*view.cut(said).shape, 4))
        colour[..., :3] = mpl.colors.to_rgb(COLOURS[index % len(COLOURS)])
        colour[..., 3] = 0.5 * np.clip(view.cut(said), 0, 1)
        aspect = spacing[view.along] / spacing[view.across]
        axes.imshow(colour, aspect=aspect, origin=view.origin, interpolation="nearest")
    for true in layers.true if layers.true is not None else ():
        if view.cut(true).any() and not view.cut(true).all():
            axes.contour(view.cut(true), levels=[0.5], colors="white", linewidths=0.7)
    for box in layers.boxes:
        if box.low[view.through] <= view.at <= box.high[view.through]:
            low = (box.low[view.across], box.low[view.along])
            width, height = box.high[view.across] - low[0], box.high[view.along] - low[1]
            axes.add_patch(Rectangle(low, width, height, fill=False, edgecolor=COLOURS[2], linewidth=1.4))
            axes.annotate(f"{box.score:.2f}", low, color=COLOURS[2], fontsize=7, annotation_clip=True)
