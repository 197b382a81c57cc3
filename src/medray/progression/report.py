"""A patient's history to look at: the time points side by side, what changed over them, lesions and their trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from medray.inference.page import COLOURS, bare, image, page, table
from medray.progression.change import SURE, Change
from medray.progression.history import History, LesionHistory
from medray.progression.pictures import even, outline, papers
from medray.progression.visit import TimePoint
from medray.storage.location import Location
from medray.types import Affine, Shape

__all__ = ["report_page", "write_report"]

HEAD = ("lesion", "what became of it", "mm³", "change", "longest mm", "doubling")
STRUCTURES_HEAD = ("structure", "ml", "change", "scale taken out")
STRUCTURES_NOTE = (
    "The scale is by how much the later scan shows everything larger, as the affine between them says it. A skull holds it; "
    "where the scans show none, it is the structure's own change, and has to be left in (--no-scale)."
)
FITS_HEAD = ("time points", "likeness", "there and back, mm")
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
    figures = _figures(history, points, names)
    target.join("report.html").write(_page(history, figures).encode())
    buffer = BytesIO()
    with PdfPages(buffer) as pages:
        for figure in (*figures.values(), *_tables(history)):
            pages.savefig(figure)
    target.join("report.pdf").write(buffer.getvalue())


def _tables(history: History) -> Iterator[Figure]:
    """Draw the tables of the page for paper."""
    note = f"{_response(history)}\n{NOTE}"
    yield from papers("Lesions", HEAD, [_row(one) for one in history.lesions], note)
    yield from papers("Structures", STRUCTURES_HEAD, _structures(history), STRUCTURES_NOTE)
    yield from papers("How well the scans fit", FITS_HEAD, _fits(history), NOTE)


def report_page(history: History, points: Sequence[TimePoint], names: Mapping[str, int]) -> str:
    """Return what `write_report` writes as ``report.html``."""
    return _page(history, _figures(history, points, names))


def _figures(history: History, points: Sequence[TimePoint], names: Mapping[str, int]) -> dict[str, Figure]:
    return {"slices": _slices(history, points, names), "trajectories": _trajectories(history)}


def _page(history: History, figures: Mapping[str, Figure]) -> str:
    rows = [_row(one) for one in history.lesions]
    parts = [
        f"<p class=soft>{len(history.years)} time points over {history.years[-1]:.2f} years. {_response(history)}</p>",
        image(figures["slices"], "time points in one space, and their difference"),
        "<h2>Lesions</h2>",
        table(HEAD, rows) if rows else "<p>No label is followed as lesions, or there are none at any time point.</p>",
        "<h2>Trajectories</h2>",
        image(figures["trajectories"], "volumes over time"),
        "<h2>Structures</h2>",
        table(STRUCTURES_HEAD, _structures(history)),
        f"<p class=soft>{STRUCTURES_NOTE}</p>",
        "<h2>How well the scans fit</h2>",
        table(FITS_HEAD, _fits(history)),
        f"<p class=note>{NOTE}</p>",
    ]
    return page("What changed", parts)


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
    percent = doubling = ""
    if change and change.percent is not None:
        percent = f"{change.percent:+.0f} %"
        if change.percent > -100 and change.interval_percent:
            percent += " ({:+.0f} to {:+.0f})".format(*change.interval_percent)
    if change and change.doubling_days is not None and lesion.fates[-1] in {"grown", "shrunk"}:
        doubling = f"{change.doubling_days:.0f} days"
        if change.interval_doubling:
            doubling += " ({:.0f} to {:.0f})".format(*change.interval_doubling)
    lengths = " → ".join("–" if found is None else f"{found.longest_mm:.1f}" for found in lesion.diameters)
    volumes = " → ".join("?" if one is None else f"{one.mm3:.0f} ± {one.deviation_mm3:.0f}" for one in lesion.amounts)
    return f"{lesion.label} {lesion.number}", ", ".join(lesion.fates), volumes, percent, lengths, doubling


def _structures(history: History) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in history.structures:
        shown = (" (cut off)" if at in one.cut_off else "" for at in range(len(one.amounts)))
        volumes = " → ".join(f"{amount.mm3 / 1000:.1f}{said}" for amount, said in zip(one.amounts, shown, strict=True))
        changes = ", ".join(map(_percent, one.changes))
        scales = ", ".join(f"{100 * (scale - 1):+.2f} %" for scale in one.scales)
        rows.append((one.label, volumes, changes, scales))
    return rows


def _percent(change: Change | None) -> str:
    if change is None or change.percent is None or change.interval_percent is None:
        return "–"
    low, high = change.interval_percent
    return f"{change.percent:+.2f} % ({low:+.2f} to {high:+.2f})"


def _fits(history: History) -> list[tuple[str, str, str]]:
    return [
        (f"{a + 1} and {b + 1}", f"{one.likeness:.2f}", f"{one.inconsistent_mm:.2f}")
        for (a, b), one in history.alignment.pairs.items()
    ]


def _slices(history: History, points: Sequence[TimePoint], names: Mapping[str, int]) -> Figure:
    """Draw the slice with most change, at each time point in the common space, and the last less the first."""
    followed = [names[label] for label in {one.label for one in history.lesions}]
    grid = _slice_of(history)
    greys, masks = [], []
    for at, point in enumerate(points):
        greys.append(even(history.alignment.sampled(at, point.image, *grid)[:, :, 0], point.image))
        inside = point.mask.with_voxels(np.isin(point.mask.voxels, followed).astype(np.uint8))
        masks.append(history.alignment.sampled(at, inside, *grid)[:, :, 0])
    figure = Figure(figsize=(3.1 * (len(points) + 1), 3.6), layout="constrained")
    drawn = figure.subplots(1, len(points) + 1)
    for number, (axes, grey, mask) in enumerate(zip(drawn, greys, masks, strict=False)):
        axes.imshow(grey.T, cmap="gray", vmin=0, vmax=1)
        outline(axes, mask, COLOURS[2])
        axes.set_title(f"{history.years[number]:.2f} years", fontsize=10)
    drawn[-1].imshow((greys[-1] - greys[0]).T, cmap="RdBu_r", vmin=-0.5, vmax=0.5)
    outline(drawn[-1], masks[0], COLOURS[5])
    outline(drawn[-1], masks[-1], "black")
    drawn[-1].set_title("last less first; outlines of both", fontsize=10)
    for axes in drawn:
        axes.set_axis_off()
    return figure


def _slice_of(history: History) -> tuple[Affine, Shape]:
    """Return a grid of one slice of the common space: through the lesion that changes most, or the middle."""
    affine, (i, j, k) = history.alignment.affine.copy(), history.alignment.shape
    height = affine[2, 3] + (k - 1) / 2 * affine[2, 2]
    if history.lesions:
        busiest = max(history.lesions, key=_most_change)
        at = next(number for number, centre in enumerate(busiest.centres_mm) if centre is not None)
        height = float(history.alignment.gathered(at, np.array([busiest.centres_mm[at]]))[0, 2])
    affine[2, 3] = height
    return affine, (i, j, 1)


def _most_change(lesion: LesionHistory) -> float:
    seen = [amount.mm3 for amount in lesion.amounts if amount]
    return max(seen, default=0.0) - min(seen, default=0.0)


def _trajectories(history: History) -> Figure:
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, lesion in enumerate(history.lesions):
        seen = [(year, amount) for year, amount in zip(history.years, lesion.amounts, strict=True) if amount]
        years, volumes = [year for year, _ in seen], [amount.mm3 for _, amount in seen]
        spread = [SURE * amount.deviation_mm3 for _, amount in seen]
        colour, name = COLOURS[number % len(COLOURS)], f"{lesion.label} {lesion.number}"
        axes.errorbar(years, volumes, spread, color=colour, marker="o", ms=4, capsize=2, label=name)
    axes.set(xlabel="years", ylabel="mm³", ylim=(0, None))
    if 0 < len(history.lesions) <= 12:
        axes.legend(title="lesion", fontsize=8, ncols=2, frameon=False)
    bare(axes)
    return figure
