"""What reports of change draw with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medray.imaging.volume import Volume

__all__ = ["Picture", "even", "outline", "papers"]

Picture = NDArray[np.float32]
ROWS_A_PAGE = 28


def even(grey: Picture, image: Volume) -> Picture:
    """Scale what a scan shows to 0 to 1."""
    shown = image.voxels[image.voxels != 0]
    low, high = np.percentile(shown, (1, 99.8)) if shown.size else (0.0, 1.0)
    return np.asarray(np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1), np.float32)


def outline(axes: Axes, mask: Picture, colour: str) -> None:
    """Draw where a mask of 0 to 1 ends, if it is there at all."""
    if mask.max() > 0.5:
        axes.contour(mask.T, [0.5], colors=[colour], linewidths=1)


def papers(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> Iterator[Figure]:
    """Draw a table, so many rows a page.

    Args:
        title: Of each page.
        head: Of the columns.
        rows: As many cells each.
        note: Below each page.
    """
    shown = list(rows) or [["none", *[""] * (len(head) - 1)]]
    for start in range(0, len(shown), ROWS_A_PAGE):
        figure = Figure(figsize=(11.7, 8.3), layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_title(title, loc="left")
        drawn = axes.table([list(row) for row in shown[start : start + ROWS_A_PAGE]], colLabels=list(head), loc="upper center")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(8)
        figure.text(0.01, 0.01, note, fontsize=8)
        yield figure
