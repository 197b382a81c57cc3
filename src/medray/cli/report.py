"""The demo's report: one HTML file with its images inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medray.imaging.volume import Volume
from medray.inference.predictor import Predictor

if TYPE_CHECKING:
    from medray.cohort.cohort import Cohort
    from medray.cohort.manifest import SeriesRow
    from medray.inference.evaluate import Evaluation
    from medray.training.run import Run

__all__ = ["write_report"]

COLOURS = ("#3b82c4", "#e8a13a", "#d6453d", "#4fa36c", "#8d6bb8")
SHOWN_CASES = 3
SIMULATED = (
    "<b>The anatomy is real, the variation is simulated.</b> All heads are smooth deformations of one template, MNI152 2009a; "
    "contrast, bias field, noise, spacing, orientation and lesions are simulated. The scores say that the loop works, not how "
    "a model would do on patients."
)
LEGEND = (
    "Above: the image. Below, filled: what the model says, on the source grid; white lines: the truth. The patient's left is "
    "on the right of axial and coronal slices."
)
STYLE = """
:root{color-scheme:light dark;--ink:#1b2733;--soft:#5a6b7b;--line:#d8e0e7;--page:#fbfcfd;--card:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa8b5;--line:#30404f;--page:#10171e;--card:#17212b}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0 auto;max-width:980px;
padding:2rem 1.2rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}p{margin:.5rem 0}.soft{color:var(--soft)}
img{width:100%;height:auto;border-radius:8px;border:1px solid var(--line)}
table{border-collapse:collapse;width:100%;background:var(--card)}
th,td{text-align:right;padding:.35rem .7rem;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}th{font-weight:600;color:var(--soft)}
.two{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem}
@media(max-width:700px){.two{grid-template-columns:1fr}}
.note{border-left:4px solid #e8a13a;padding:.4rem .9rem;background:var(--card)}
"""


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
    pictures = [_case_picture(predictor, cohort, row) for row in rows[:SHOWN_CASES]]
    captions = [_caption(row, evaluation) for row in rows[:SHOWN_CASES]]
    plan = predictor.plan
    parts = [
        "<h1>medray demo</h1>",
        "<p class='soft'>Samples, ingestion, plan, preparation, training, registry, serving: one run on this machine.</p>",
        f"<p class='note'>{SIMULATED}</p>",
        "<h2>Held-out subjects</h2>",
        _scores_table(evaluation),
        *(f"<p class='soft'>{caption}</p>{picture}" for caption, picture in zip(captions, pictures, strict=True)),
        f"<p class='soft'>{LEGEND}</p>",
        "<h2>Training</h2>",
        _curves(run.history),
        "<div class='two'><div><h2>Stage times</h2>",
        _table(("stage", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in story.seconds.items()]),
        "</div><div><h2>Over HTTP</h2>",
        _http_table(story.facts),
        "</div></div><h2>The plan, and why</h2>",
        _table(("choice", "value", "reason"), [(key, getattr(plan, key), why) for key, why in plan.reasons.items()]),
        "<h2>Lineage</h2>",
        _table(
            ("what", "value"),
            [*story.facts["cohort"].items(), ("model", story.facts["model"]), *run.record["versions"].items()],
        ),
    ]
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>medray demo</title><style>{STYLE}</style>"
    page = f"{head}<body>{''.join(parts)}</body></html>"
    target.write_text(page, encoding="utf-8")


def _caption(row: SeriesRow, evaluation: Evaluation) -> str:
    scores = ", ".join(f"{label} {found['dice']:.3f}" for label, found in evaluation.cases[row.series].items())
    spacing = " × ".join(f"{value:.2f}" for value in row.spacing_mm)
    return f"Subject {row.subject}: {spacing} mm along L, P, S; Dice {scores}"


def _case_picture(predictor: Predictor, cohort: Cohort, row: SeriesRow) -> str:
    volume = cohort.volume(row)
    predicted = predictor.predict(volume).mask.reoriented().voxels[0]
    truth = Volume(cohort.mask(row)[np.newaxis], volume.affine).reoriented().voxels[0]
    upright = volume.reoriented()
    labels = predictor.plan.labels.names
    rarest = max(labels.values())
    places = np.argwhere(truth == rarest) if (truth == rarest).any() else np.argwhere(truth > 0)
    i, j, k = (int(np.bincount(places[:, axis]).argmax()) for axis in range(3))
    si, sj, sk = upright.spacing_mm
    image = upright.voxels[0].astype(np.float32)
    views = (
        (image[:, :, k].T, predicted[:, :, k].T, truth[:, :, k].T, sj / si, "upper"),
        (image[:, j].T, predicted[:, j].T, truth[:, j].T, sk / si, "lower"),
        (image[i].T, predicted[i].T, truth[i].T, sk / sj, "lower"),
    )
    figure = Figure(figsize=(12, 8.2), facecolor="black", layout="constrained")
    high = np.percentile(image[image > image.mean()], 99.7)
    for (plain, painted), (grey, mask, real, aspect, origin) in zip(figure.subplots(2, 3).T, views, strict=True):
        for axes in (plain, painted):
            axes.imshow(grey, cmap="gray", vmin=0, vmax=high, aspect=aspect, origin=origin, interpolation="bilinear")
            axes.set_axis_off()
        painted.imshow(_painted(mask, list(labels.values())), aspect=aspect, origin=origin, interpolation="nearest")
        for value in labels.values():
            if (real == value).any():
                painted.contour(real == value, levels=[0.5], colors="white", linewidths=0.4 if value != rarest else 1.2)
    handles = [Patch(color=COLOURS[index % len(COLOURS)], label=name) for index, name in enumerate(labels)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, labelcolor="white")
    return _image(figure, "axial, coronal and sagittal slice with the predicted labels")


def _painted(mask: np.ndarray[Any, Any], values: Sequence[int]) -> np.ndarray[Any, Any]:
    painted = np.zeros((*mask.shape, 4))
    for index, value in enumerate(values):
        painted[mask == value] = mpl.colors.to_rgba(COLOURS[index % len(COLOURS)], 0.45)
    return painted


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
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return _image(figure, "training loss and validation Dice by epoch")


def _scores_table(evaluation: Evaluation) -> str:
    rows = [
        (label, f"{score:.3f}", "{:.3f} to {:.3f}".format(*evaluation.intervals[label][evaluation.measure]))
        for label, score in evaluation.scores.items()
    ]
    return _table(("label", f"mean Dice of {len(evaluation.cases)} scans", "95 % interval, by patient"), rows)


def _http_table(facts: Mapping[str, Any]) -> str:
    http = facts["http"]
    rows = [(f"{name}, ml", f"{value:.1f}") for name, value in http["volumes_ml"].items()]
    rows += [(f"{stage}, ms", f"{value:.0f}") for stage, value in http["latencies"].items()]
    rows += [("mask equals the Python path's", "byte for byte")]
    return _table(("of one held-out scan", "value"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _image(figure: Figure, alt: str) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor=figure.get_facecolor())
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{html.escape(alt)}' src='data:image/png;base64,{data}'>"
