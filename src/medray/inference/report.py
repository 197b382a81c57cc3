"""An evaluation for people and for spreadsheets: JSON, CSV, and one HTML page with plots and the worst cases' pictures."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medray.cohort.cohort import Cohort
from medray.cohort.manifest import SeriesRow
from medray.evaluation.classification import calibration_bins
from medray.evaluation.detection import sensitivity_at
from medray.inference.evaluate import CaseScore, Evaluation, truth_of
from medray.inference.page import COLOURS, bare, image, page, table
from medray.inference.pictures import LEGEND, case_picture
from medray.inference.predictor import Predictor
from medray.storage.location import Location
from medray.tasks.detection import matches_of

__all__ = ["row_picture", "write_evaluation"]

WORST = 4
EDGE = 1.5
"""Of growth that is drawn: four and a half times as much, and as little."""
RATES = np.geomspace(0.05, 10, 60)


def write_evaluation(target: Location, title: str, evaluation: Evaluation, predictor: Predictor, cohort: Cohort) -> None:
    """Write ``evaluation.json``, ``cases.csv`` and ``report.html``.

    Args:
        target: The folder.
        title: Of the page.
        evaluation: What to tell.
        predictor: The model, for the worst cases' pictures.
        cohort: Where their images are.
    """
    target.join("evaluation.json").write(json.dumps(evaluation.plain(), indent=1).encode())
    target.join("cases.csv").write(_csv(evaluation).encode())
    task = predictor.plan.task
    about = (
        f"{len(evaluation.cases)} scans of {len({case.subject for case in evaluation.cases})} patients; cohort "
        f"{cohort.index.id}. Intervals are 95 %, by resampling patients."
    )
    parts = [
        f"<p class='soft'>{about}</p>",
        "<h2>All scans</h2>",
        _summary_table(evaluation),
        image(PLOTS[task](evaluation), f"plots of the {task}"),
    ]
    for kind, groups in evaluation.groups.items():
        parts += [f"<h2>By {kind}</h2>", _group_table(evaluation, kind, groups)]
    parts += ["<h2>The worst cases</h2>", *_worst(evaluation, predictor, cohort), f"<p class='soft'>{LEGEND}</p>"]
    target.join("report.html").write(page(title, parts).encode())


def _csv(evaluation: Evaluation) -> str:
    """One line a scan and target."""
    kinds = sorted({kind for case in evaluation.cases for kind in case.groups})
    measures = list(dict.fromkeys(m for case in evaluation.cases for found in case.record.values() for m in found))
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(["series", "subject", *kinds, "target", *measures])
    for case in evaluation.cases:
        for name, found in case.record.items():
            groups = [case.groups.get(kind, "") for kind in kinds]
            writer.writerow([case.series, case.subject, *groups, name, *(_cell(found.get(measure)) for measure in measures)])
    return sheet.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(str(_cell(inner)) for inner in value)
    if isinstance(value, bool):
        return int(value)
    return f"{value:.6g}" if isinstance(value, float) else value


def _summary_table(evaluation: Evaluation) -> str:
    rows = []
    for name, measures in evaluation.overall.summary.items():
        ends = evaluation.overall.intervals[name]
        rows += [(name, measure.replace("_", " "), _number(value), _span(ends[measure])) for measure, value in measures.items()]
    return table(("target", "measure", "value", "interval"), rows)


def _group_table(evaluation: Evaluation, kind: str, groups: Mapping[str, Any]) -> str:
    names, measure = list(evaluation.overall.summary), evaluation.measure
    rows = [
        (group, found.cases, *(f"{_number(found.summary[n][measure])} ({_span(found.intervals[n][measure])})" for n in names))
        for group, found in groups.items()
    ]
    return table((kind, "scans", *(f"{name}, {measure}" for name in names)), rows)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _span(ends: tuple[float, float]) -> str:
    return "–" if math.isnan(ends[0]) else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _worst(evaluation: Evaluation, predictor: Predictor, cohort: Cohort) -> list[str]:
    rows, parts = {row.series: row for row in cohort.rows}, []
    for case in sorted(evaluation.cases, key=lambda case: _badness(case, predictor.plan.task), reverse=True)[:WORST]:
        said = html.escape("; ".join(f"{name}: {_in_words(found)}" for name, found in case.record.items()))
        parts.append(f"<p class='soft'>Subject {html.escape(case.subject)}. {said}</p>")
        parts.append(row_picture(predictor, cohort, rows[case.series]))
    return parts


def row_picture(predictor: Predictor, cohort: Cohort, row: SeriesRow) -> str:
    """Predict a series and return slices of it with what the model says and the truth, as HTML."""
    volume = cohort.volume(row)
    answer = predictor.predict(volume).answer
    figure = case_picture(volume, answer, truth_of(predictor.plan, cohort, row, volume), predictor.plan)
    return image(figure, "slices of the scan, with what the model says and the truth")


def _in_words(found: Mapping[str, Any]) -> str:
    if "truths" in found:
        hits = sum(found["hits"])
        return f"{hits} of {found['truths']} found, {len(found['hits']) - hits} false boxes"
    return ", ".join(f"{measure.replace('_', ' ')} {value:.3g}" for measure, value in found.items())


def _badness(case: CaseScore, task: str) -> float:
    if task == "segmentation":
        scores = [found["dice"] for found in case.record.values() if not math.isnan(found["dice"])]
        return 1 - float(np.mean(scores)) if scores else 0.0
    if task == "progression":
        return max(abs(float(found["growth"]) - float(found["true_growth"])) for found in case.record.values())
    if task == "diagnosis":
        return max(abs(float(found["probability"]) - int(found["present"])) for found in case.record.values())
    return float(sum(_missed(found) for found in case.record.values()))


def _missed(found: Mapping[str, Any]) -> float:
    """Count things that weren't found, and false boxes by how sure they are."""
    wrong = sum(score for score, hit in zip(found["scores"], found["hits"], strict=True) if not hit)
    return float(found["truths"] - sum(found["hits"]) + wrong)


def _dice_plot(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(evaluation.overall.summary):
        scores = [case.record[name]["dice"] for case in evaluation.cases]
        scores = sorted(score for score in scores if not math.isnan(score))
        heights = index + np.linspace(-0.25, 0.25, max(1, len(scores)))[: len(scores)]
        axes.plot(scores, heights, "o", color=COLOURS[index % len(COLOURS)], alpha=0.6)
        if scores:
            axes.plot([np.median(scores)] * 2, [index - 0.35, index + 0.35], color="#1b2733")
    axes.set_yticks(range(len(evaluation.overall.summary)), list(evaluation.overall.summary))
    axes.set(xlim=(-0.02, 1.02), xlabel="Dice of each scan; the line is the median")
    axes.invert_yaxis()
    bare(axes)
    return figure


def _growth_plot(evaluation: Evaluation) -> Figure:
    """Draw growth that was said over true growth; what is new or vanished lies at the edge."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, name in enumerate(evaluation.overall.summary):
        colour = COLOURS[index % len(COLOURS)]
        said, true = ([case.record[name][key] for case in evaluation.cases] for key in ("growth", "true_growth"))
        left.plot(np.clip(true, -EDGE, EDGE), np.clip(said, -EDGE, EDGE), "o", color=colour, alpha=0.7, label=name)
        errors = sorted(abs(a - b) for a, b in zip(said, true, strict=True))
        right.plot(
            [min(error, EDGE) for error in errors], np.arange(1, len(errors) + 1) / len(errors), color=colour, label=name
        )
    left.plot([-EDGE, EDGE], [-EDGE, EDGE], color="#a9b6c2", linewidth=0.8)
    left.set(xlabel="true growth, log of the ratio of volumes", ylabel="what the model says")
    left.legend(frameon=False, loc="lower right")
    right.set(xlabel="error of growth", ylabel="share of pairs within it", ylim=(0, 1.02), xlim=(0, None))
    bare(left, right)
    return figure


def _diagnosis_plot(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, name in enumerate(evaluation.overall.summary):
        colour = COLOURS[index % len(COLOURS)]
        probabilities = np.array([case.record[name]["probability"] for case in evaluation.cases])
        present = np.array([case.record[name]["present"] for case in evaluation.cases], bool)
        thresholds = [math.inf, *sorted(set(probabilities), reverse=True)]
        curve = [[np.mean(probabilities[part] >= t) if part.any() else 0.0 for part in (~present, present)] for t in thresholds]
        left.plot(*zip(*curve, strict=True), color=colour, label=name)
        bins = calibration_bins(probabilities, present)
        right.plot([item.predicted for item in bins], [item.observed for item in bins], "o-", color=colour, label=name)
    for axes, words in ((left, ("1 - specificity", "sensitivity")), (right, ("said probability", "share that has it"))):
        axes.plot([0, 1], [0, 1], color="#a9b6c2", linewidth=0.8)
        axes.set(xlabel=words[0], ylabel=words[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(frameon=False, loc="lower right")
    bare(left, right)
    return figure


def _froc_plot(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(evaluation.overall.summary):
        scans = [matches_of(case.record[name]) for case in evaluation.cases]
        found = [sensitivity_at(scans, float(rate)) for rate in RATES]
        axes.semilogx(RATES, found, color=COLOURS[index % len(COLOURS)], label=name)
    axes.set(xlabel="false positives a scan", ylabel="sensitivity", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, loc="lower right")
    bare(axes)
    return figure


PLOTS: dict[str, Callable[[Evaluation], Figure]] = {
    "segmentation": _dice_plot,
    "progression": _growth_plot,
    "diagnosis": _diagnosis_plot,
    "detection": _froc_plot,
}
