"""A patient's history to look at: the time points side by side, what changed over them, lesions and their trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medray.inference.page import COLOURS, bare, image, page, table
from medray.progression.align import onto
from medray.progression.change import SURE
from medray.progression.history import History, LesionHistory, TimePoint
from medray.storage.location import Location

__all__ = ["write_report"]

Picture = NDArray[np.float32]
HEAD = ("lesion", "what became of it", "mm³", "change", "longest mm", "doubling")
NOTE = (
    "Volumes are those of the masks' voxels; intervals are of 95 %. Fates and categories are computed, and no diagnosis: "
    "a radiologist has to read the scans."
)


def write_report(target: Location, history: History, points: Sequence[TimePoint], names: Mapping[str, int]) -> None:
    """Write ``report.html`` and ``report.pdf``.

    Args:
        target: The folder.
        history: What is told.
        points: Its time points, the earliest first.
        names: Of the masks' labels, and their values.
    """
    figures = {"slices": _slices(history, points, names), "trajectories": _trajectories(history)}
    rows = [_row(one) for one in history.lesions]
    parts = [
        f"<p class=soft>{len(points)} time points over {history.years[-1]:.2f} years. {_response(history)}</p>",
        image(figures["slices"], "time points in one space, and their difference"),
        "<h2>Lesions</h2>",
        table(HEAD, rows) if rows else "<p>No label is followed as lesions, or there are none at any time point.</p>",
        "<h2>Trajectories</h2>",
        image(figures["trajectories"], "volumes over time"),
        "<h2>Structures</h2>",
        table(("structure", "ml", "change, scanners' scale taken out"), _structures(history)),
        "<h2>How well the scans fit</h2>",
        table(("time points", "likeness", "there and back, mm"), _fits(history)),
        f"<p class=note>{NOTE}</p>",
    ]
    target.join("report.html").write(page("What changed", parts).encode())
    buffer = BytesIO()
    with PdfPages(buffer) as pages:
        for figure in (*figures.values(), _paper(HEAD, rows)):
            pages.savefig(figure)
    target.join("report.pdf").write(buffer.getvalue())


def _response(history: History) -> str:
    last = history.responses[-1]
    said = f"RECIST 1.1: {last.category}, sum of diameters {last.sum_mm:.0f} mm. " if last.category else ""
    growth = history.growth
    if growth is None:
        return said
    low, high = (100 * (np.exp(rate) - 1) for rate in growth.interval)
    return f"{said}Lesions together: {100 * (np.exp(growth.rate_per_year) - 1):+.0f} % a year ({low:+.0f} to {high:+.0f})."


def _row(lesion: LesionHistory) -> tuple[str, ...]:
    change = lesion.changes[-1]
    percent = "" if change.percent is None or change.interval_percent is None else f"{change.percent:+.0f} %"
    if percent and lesion.amounts[-1].mm3:
        percent += " ({:+.0f} to {:+.0f})".format(*change.interval_percent or ())
    lengths = " → ".join("–" if found is None else f"{found.longest_mm:.1f}" for found in lesion.diameters)
    volumes = " → ".join(f"{amount.mm3:.0f} ± {amount.deviation_mm3:.0f}" for amount in lesion.amounts)
    doubling = "" if change.doubling_days is None or lesion.fates[-1] == "stable" else f"{change.doubling_days:.0f} days"
    return f"{lesion.number} {lesion.label}", ", ".join(lesion.fates), volumes, percent, lengths, doubling


def _structures(history: History) -> list[tuple[str, str, str]]:
    rows = []
    for one in history.structures:
        volumes = " → ".join(f"{amount.mm3 / 1000:.1f}" for amount in one.amounts)
        changes = ", ".join("–" if change.percent is None else f"{change.percent:+.2f} %" for change in one.changes)
        rows.append((one.label, volumes, changes))
    return rows


def _fits(history: History) -> list[tuple[str, str, str]]:
    return [
        (f"{a + 1} and {b + 1}", f"{one.likeness:.2f}", f"{one.inconsistent_mm:.2f}")
        for (a, b), one in history.alignment.pairs.items()
    ]


def _slices(history: History, points: Sequence[TimePoint], names: Mapping[str, int]) -> Figure:
    """Draw the slice with most change, at each time point in the common space, and the last less the first."""
    grid = history.alignment.affine, history.alignment.shape
    followed = {names[one.label] for one in history.lesions}
    greys = [_even(onto(point.image, matrix, *grid)) for point, matrix in zip(points, history.alignment.matrices, strict=True)]
    masks = [
        onto(point.mask.with_voxels(np.isin(point.mask.voxels, list(followed)).astype(np.uint8)), matrix, *grid)
        for point, matrix in zip(points, history.alignment.matrices, strict=True)
    ]
    busy = np.abs(masks[-1] - masks[0]).sum(axis=(0, 1)) if followed else greys[0].sum(axis=(0, 1))
    k = int(busy.argmax()) if busy.any() else int(greys[0].sum(axis=(0, 1)).argmax())
    figure = Figure(figsize=(3.1 * (len(points) + 1), 3.6), layout="constrained")
    drawn = figure.subplots(1, len(points) + 1)
    for number, (axes, grey, mask) in enumerate(zip(drawn, greys, masks, strict=False)):
        axes.imshow(grey[:, :, k].T, cmap="gray", vmin=0, vmax=1)
        axes.contour(mask[:, :, k].T, [0.5], colors=[COLOURS[2]], linewidths=1)
        axes.set_title(f"{history.years[number]:.2f} years", fontsize=10)
    drawn[-1].imshow((greys[-1] - greys[0])[:, :, k].T, cmap="RdBu_r", vmin=-0.5, vmax=0.5)
    drawn[-1].contour(masks[0][:, :, k].T, [0.5], colors=[COLOURS[5]], linewidths=1)
    drawn[-1].contour(masks[-1][:, :, k].T, [0.5], colors=["black"], linewidths=1)
    drawn[-1].set_title("last less first; outlines of both", fontsize=10)
    for axes in drawn:
        axes.set_axis_off()
    return figure


def _even(grey: Picture) -> Picture:
    """Scale what a scan shows to 0 to 1."""
    shown = grey[grey != 0]
    low, high = np.percentile(shown, (1, 99)) if shown.size else (0.0, 1.0)
    return np.asarray(np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1), np.float32)


def _trajectories(history: History) -> Figure:
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, lesion in enumerate(history.lesions):
        volumes = [amount.mm3 for amount in lesion.amounts]
        spread = [SURE * amount.deviation_mm3 for amount in lesion.amounts]
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(history.years, volumes, spread, color=colour, marker="o", ms=4, capsize=2, label=f"{lesion.number}")
    axes.set(xlabel="years", ylabel="mm³", ylim=(0, None))
    if 0 < len(history.lesions) <= 12:
        axes.legend(title="lesion", fontsize=8, ncols=2, frameon=False)
    bare(axes)
    return figure


def _paper(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Figure:
    """Draw the table of lesions as a page."""
    figure = Figure(figsize=(11.7, 8.3), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title("Lesions", loc="left")
    drawn = axes.table(
        [list(row) for row in rows] or [["none", *[""] * (len(head) - 1)]], colLabels=list(head), loc="upper center"
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    figure.text(0.01, 0.01, NOTE, fontsize=8)
    return figure
