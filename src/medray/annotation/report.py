"""A project's page: how far its experts are and agree, and the cases on which they differ most, to look at."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medray.annotation.agreement import disagreement
from medray.annotation.cases import Case, all_cases
from medray.annotation.conclusion import drawn_by
from medray.annotation.projects import Project, Projects
from medray.annotation.store import LabelStore
from medray.annotation.summary import Summary, summarise
from medray.cohort.cohort import open_cohort
from medray.imaging.geometry import closest_lps
from medray.imaging.volume import Volume
from medray.inference.page import COLOURS, image, page, table
from medray.storage.location import Location

__all__ = ["write_agreement"]

MOST_PICTURES = 6
NOTE = (
    "Dice is 1 where two experts left out the same. Sensitivity and specificity are STAPLE's estimates, within and next to "
    "what anybody drew. Kappa and alpha are 0 for an agreement that chance alone would give."
)


def write_agreement(root: Location, name: str, target: Location) -> Summary:
    """Write ``agreement.html`` and ``agreement.json``.

    Args:
        root: The cohort.
        name: Of the project.
        target: The folder.

    Returns:
        What they say.

    Raises:
        NotFoundError: If there is no such cohort or project.
        StorageError: If anything can't be read or written.
    """
    project, store = Projects(root).get(name), LabelStore(root)
    cases = all_cases(root, project)
    summary = summarise(project, cases)
    parts = [
        f"<p class=soft>{html.escape(_standing(project, summary))}</p>",
        "<h2>Experts</h2>",
        table(("expert", "cases", "done", "approved", "given back", "median time", "strokes", "changed"), _experts(summary)),
        *_shares(project, summary),
        "<h2>Agreement, pair by pair</h2>",
        table(("name", "experts", "cases", "Dice", "HD95, mm", "one drew none", "kappa"), _pairs(summary)),
        *_kappas(summary),
        *_pictures(root, store, project, cases),
        f"<p class=note>{NOTE}</p>",
    ]
    target.join("agreement.html").write(page(f"Agreement: {name}", parts).encode())
    target.join("agreement.json").write(json.dumps(summary.plain(), indent=1).encode())
    return summary


def _standing(project: Project, summary: Summary) -> str:
    states = ", ".join(f"{count} {state}" for state, count in sorted(summary.states.items()))
    mean = "" if summary.agreement is None else f" Mean agreement {summary.agreement:.3f}."
    return f"{project.experts} experts a case; {states}.{mean}"


def _experts(summary: Summary) -> list[tuple[str, ...]]:
    return [
        (
            name, str(one.assigned), str(one.done), str(one.approved), str(one.rejected),
            _number(one.seconds, "{:.0f} s"), _number(one.edits, "{:.0f}"), _number(one.changed, "{:.1%}"),
        )
        for name, one in summary.experts.items()
    ]  # fmt: skip


def _shares(project: Project, summary: Summary) -> list[str]:
    if not summary.sensitivity:
        return []
    rows = [
        (
            rater,
            *(
                f"{by_name[name]:.3f} / {summary.specificity[rater][name]:.3f}" if name in by_name else "–"
                for name in project.names
            ),
        )
        for rater, by_name in summary.sensitivity.items()
    ]
    return ["<h2>Sensitivity / specificity by the consensus</h2>", table(("expert", *project.names), rows)]


def _pairs(summary: Summary) -> list[tuple[str, ...]]:
    return [
        (
            pair.name, f"{pair.first}, {pair.second}", str(pair.cases), _number(pair.dice, "{:.3f}"),
            _number(pair.hd95_mm, "{:.1f}"), str(pair.one_drew), _number(pair.kappa, "{:.3f}"),
        )
        for pair in summary.pairs
    ]  # fmt: skip


def _kappas(summary: Summary) -> list[str]:
    if not summary.alpha:
        return []
    rows = [(name, _number(summary.fleiss[name], "{:.3f}"), _number(alpha, "{:.3f}")) for name, alpha in summary.alpha.items()]
    return ["<h2>Agreement of all</h2>", table(("finding", "Fleiss' kappa", "Krippendorff's alpha"), rows)]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _pictures(root: Location, store: LabelStore, project: Project, cases: Sequence[Case]) -> list[str]:
    """Draw the cases on which experts agree least."""
    cohort = open_cohort(root)
    rows = {row.series: row for row in cohort.rows}
    drawn = [
        case for case in cases if project.kind == "segmentation" and case.fresh and len(case.live) > 1 and case.series in rows
    ]
    worst = sorted(drawn, key=lambda case: case.consensus.facts["agreement"] if case.consensus else 1.0)[:MOST_PICTURES]
    if not worst:
        return []
    figure = Figure(figsize=(9.6, 3.3 * len(worst)), layout="constrained")
    for axes, case in zip(figure.subplots(len(worst), 3, squeeze=False), worst, strict=True):
        _draw(axes, cohort.volume(rows[case.series]), store, case)
    legend = "Least agreement first: the image, each expert's outline in a colour, the share of pairs that differ (white: all)."
    return ["<h2>Where they differ</h2>", f"<p>{legend}</p>", image(figure, "images, outlines and disagreement")]


def _draw(axes: Sequence[Any], volume: Volume, store: LabelStore, case: Case) -> None:
    turn = closest_lps(volume.affine)
    masks = [turn.apply(mask[np.newaxis])[0] for mask in drawn_by(store, case.live)]
    differ, grey = disagreement(masks), volume.reoriented().voxels[0]
    height = (
        int(differ.sum(axis=(0, 1)).argmax()) if differ.any() else int(sum(mask.sum(axis=(0, 1)) for mask in masks).argmax())
    )
    across, along, _ = volume.reoriented().spacing_mm
    plain, outlined, heat = axes
    for one in (plain, outlined):
        one.imshow(grey[:, :, height].T, cmap="gray", aspect=along / across)
    for number, mask in enumerate(masks):
        for value in np.unique(mask[:, :, height]):
            layer = (mask[:, :, height] == value).T
            if value and not layer.all():
                outlined.contour(layer, [0.5], colors=[COLOURS[number % len(COLOURS)]], linewidths=1)
    heat.imshow(differ[:, :, height].T, cmap="inferno", vmin=0, vmax=1, aspect=along / across)
    agreement = case.consensus.facts["agreement"] if case.consensus else 0.0
    plain.set_title(f"{case.series[:20]}  agreement {agreement:.2f}", fontsize=9, loc="left")
    for one in axes:
        one.set_axis_off()
