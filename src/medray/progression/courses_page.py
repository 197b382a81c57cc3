"""The courses of a patient's labels to look at: each pair of scans, what the model says changed, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medray.imaging.transitions import Transitions
from medray.inference.page import COLOURS, image, page, table
from medray.progression.courses import Courses
from medray.progression.pictures import even, papers
from medray.storage.location import Location
from medray.tasks.answer import Course
from medray.types import Mask

__all__ = ["courses_page", "write_courses_page"]

HEAD = ("label", "scans", "mm³", "change", "a year", "shrunk, stable, grown")
LOST, GAINED, KEPT = COLOURS[0], COLOURS[2], COLOURS[1]
NOTE = (
    "Volumes are what the model expects, in the space midway between two scans. What it says is computed, and no diagnosis: a "
    "radiologist has to read the scans."
)


def write_courses_page(target: Location, courses: Courses) -> None:
    """Write ``report.html`` and ``report.pdf``."""
    figures = _figures(courses)
    target.join("report.html").write(_page(courses, figures).encode())
    buffer = BytesIO()
    with PdfPages(buffer) as pages:
        for figure in (*figures, *papers("Courses", HEAD, _rows(courses), NOTE)):
            pages.savefig(figure)
    target.join("report.pdf").write(buffer.getvalue())


def courses_page(courses: Courses) -> str:
    """Return what `write_courses_page` writes as ``report.html``."""
    return _page(courses, _figures(courses))


def _page(courses: Courses, figures: Sequence[Figure]) -> str:
    parts = [f"<p class=soft>{len(courses.visits)} time points over {courses.years[-1]:.2f} years.</p>"]
    parts += [image(figure, "two scans in one space, and what became of each voxel") for figure in figures]
    return page("What changed", [*parts, "<h2>Courses</h2>", table(HEAD, _rows(courses)), f"<p class=note>{NOTE}</p>"])


def _rows(courses: Courses) -> list[tuple[str, ...]]:
    return [(label, f"{at + 1} and {at + 2}", *_said(course)) for at, label, course in courses.told()]


def _said(course: Course) -> tuple[str, str, str, str]:
    change = f"{course.percent:+.0f} %" if course.before_mm3 else "new"
    rate = "" if course.rate_per_year is None else f"{100 * np.expm1(course.rate_per_year):+.0f} %"
    classes = ", ".join(f"{100 * course.probabilities[name]:.0f} %" for name in ("shrunk", "stable", "grown"))
    return f"{course.before_mm3:.0f} → {course.after_mm3:.0f}", change, rate, classes


def _figures(courses: Courses) -> list[Figure]:
    return [_figure(courses, at) for at in range(len(courses.pairs))]


def _figure(courses: Courses, at: int) -> Figure:
    """Draw the slice with most change of a pair: both scans, and the later one with what became of its voxels."""
    pair, said = courses.pairs[at].image, courses.said[at]
    labels = Transitions(tuple(said.answer.courses))
    before, after = labels.parted(said.mask.voxels[0])
    slab = _busiest(before, after)
    greys = [even(channel[:, :, slab], pair.with_voxels(channel[np.newaxis])) for channel in pair.voxels]
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    drawn = figure.subplots(1, 3)
    for axes, grey in zip(drawn, (*greys, greys[1]), strict=True):
        axes.imshow(grey.T, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    for axes, year in zip(drawn, courses.years[at : at + 2], strict=False):
        axes.set_title(f"{year:.2f} years", fontsize=10)
    _paint(drawn[2], before[:, :, slab], after[:, :, slab])
    drawn[2].set_title("what became of it", fontsize=10)
    keys = [Patch(color=colour, label=word) for colour, word in ((KEPT, "kept"), (GAINED, "gained"), (LOST, "lost"))]
    drawn[2].legend(handles=keys, loc="lower right", fontsize=7, framealpha=0.7)
    return figure


def _busiest(before: Mask, after: Mask) -> int:
    """Return the slice with most change or, without any, with most of all labels."""
    for found in (before != after, before + after > 0):
        if found.any():
            return int(np.argmax(found.sum(axis=(0, 1))))
    return int(before.shape[2]) // 2


def _paint(axes: Axes, before: Mask, after: Mask) -> None:
    colours = np.zeros((*before.T.shape, 4))
    for found, colour in (((before == after) & (after > 0), KEPT), (before > 0, LOST), (after > 0, GAINED)):
        which = found if colour == KEPT else found & (before != after)
        colours[which.T] = to_rgba(colour, 0.6)
    axes.imshow(colours, interpolation="nearest")
