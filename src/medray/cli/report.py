"""The demo's report: one HTML file with its images inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from medray.inference.page import COLOURS, bare, image, page, table
from medray.inference.pictures import LEGEND
from medray.inference.predictor import Predictor
from medray.inference.report import row_picture

if TYPE_CHECKING:
    from medray.cohort.cohort import Cohort
    from medray.cohort.manifest import SeriesRow
    from medray.inference.evaluate import Evaluation
    from medray.training.run import Run

__all__ = ["write_report"]

SHOWN_CASES = 3
SIMULATED = (
    "<b>The anatomy is real, the variation is simulated.</b> All heads are smooth deformations of one template, MNI152 2009a; "
    "contrast, bias field, noise, spacing, orientation and lesions are simulated. The scores say that the loop works, not how "
    "a model would do on patients."
)


def write_report(target: Path, cohort: Cohort, run: Run, evaluation: Evaluation, rows: Sequence[SeriesRow], story: Any) -> None:
    """Write the report.

    Args:
        target: The HTML file.
        cohort: Where the images are.
        run: For curves, plan and weights.
        evaluation: Scores of ``rows``.
        rows: Held-out series; the first three are shown.
        story: The demo's stage times and facts.
    """
    predictor = Predictor.load(Path(run.model.path))
    pictures = [row_picture(predictor, cohort, row) for row in rows[:SHOWN_CASES]]
    captions = [_caption(row, evaluation) for row in rows[:SHOWN_CASES]]
    plan = predictor.plan
    parts = [
        "<p class='soft'>Samples, ingestion, plan, preparation, training, registry, serving: one run on this machine.</p>",
        f"<p class='note'>{SIMULATED}</p>",
        "<h2>Held-out subjects</h2>",
        _scores_table(evaluation),
        *(f"<p class='soft'>{caption}</p>{picture}" for caption, picture in zip(captions, pictures, strict=True)),
        f"<p class='soft'>{LEGEND}</p>",
        "<h2>Training</h2>",
        _curves(run.history),
        "<div class='two'><div><h2>Stage times</h2>",
        table(("stage", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in story.seconds.items()]),
        "</div><div><h2>Over HTTP</h2>",
        _http_table(story.facts),
        "</div></div><h2>The plan, and why</h2>",
        table(("choice", "value", "reason"), [(key, getattr(plan, key), why) for key, why in plan.reasons.items()]),
        "<h2>Lineage</h2>",
        table(
            ("what", "value"),
            [*story.facts["cohort"].items(), ("model", story.facts["model"]), *run.record["versions"].items()],
        ),
    ]
    target.write_text(page("medray demo", parts), encoding="utf-8")


def _caption(row: SeriesRow, evaluation: Evaluation) -> str:
    case = next(case for case in evaluation.cases if case.series == row.series)
    scores = ", ".join(f"{label} {found['dice']:.3f}" for label, found in case.record.items())
    spacing = " × ".join(f"{value:.2f}" for value in row.spacing_mm)
    return f"Subject {row.subject}: {spacing} mm along L, P, S; Dice {scores}"


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] + 1 for record in history]
    left.plot(epochs, [record["loss"] for record in history], color="#40566b", marker="o", markersize=3)
    left.set(xlabel="epoch", title="training loss (Dice + weighted cross-entropy)")
    for index, label in enumerate(history[0]["scores"]):
        scores = [record["scores"][label] for record in history]
        right.plot(epochs, scores, color=COLOURS[index % len(COLOURS)], marker="o", markersize=3, label=label)
    right.set(xlabel="epoch", ylim=(0, 1), title="validation Dice, whole volumes")
    right.legend(frameon=False, loc="lower right")
    bare(left, right)
    return image(figure, "training loss and validation Dice by epoch")


def _scores_table(evaluation: Evaluation) -> str:
    rows = [
        (label, f"{score:.3f}", "{:.3f} to {:.3f}".format(*evaluation.overall.intervals[label][evaluation.measure]))
        for label, score in evaluation.scores.items()
    ]
    return table(("label", f"mean Dice of {len(evaluation.cases)} scans", "95 % interval, by patient"), rows)


def _http_table(facts: Mapping[str, Any]) -> str:
    http = facts["http"]
    rows = [(f"{name}, ml", f"{value:.1f}") for name, value in http["volumes_ml"].items()]
    rows += [(f"{stage}, ms", f"{value:.0f}") for stage, value in http["latencies"].items()]
    rows += [("mask equals the Python path's", "byte for byte")]
    return table(("of one held-out scan", "value"), rows)
