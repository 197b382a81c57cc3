"""Does each task learn, and how well do a CNN and a transformer do at it?

One cohort of simulated people, four in ten of them healthy; each task is planned, prepared, fitted under Ray Train and scored
on subjects that it never saw, on the scans' own grids. Words choose tasks: ``python benchmarks/tasks.py detection``; results
of the others stay in ``results/tasks.json`` as they were.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from report import RESULTS, save, stamp

import medray
from medray.cohort.cohort import Cohort
from medray.engine import join_ray, stream
from medray.inference.evaluate import held_out, score_cases
from medray.samples.brain import Illness, write_brain_cohort

SUBJECTS = 96
SEED = 2
"""Of the people: on 0 the losses were chosen, and of 1 only three healthy ones would be held out, too few for an AUC."""
HEALTHY = 0.4
SPLITS = {"val": 0.1, "test": 0.3}


@dataclass(frozen=True)
class Attempt:
    """One task with one network.

    Attributes:
        task: Its name.
        fit: How long and at what pace.
        changes: Of the plan.
    """

    task: str
    fit: dict[str, Any]
    changes: dict[str, Any] = field(default_factory=dict)


ATTEMPTS = {
    "segmentation, U-Net": Attempt(
        "segmentation",
        {"epochs": 20, "steps": 300, "average": 0.99, "learning_rate": 5e-3, "channels_last": True},
        {"target_weights": [1, 1, 1, 3]},
    ),
    "detection, U-Net": Attempt("detection", {"epochs": 12, "steps": 150, "average": 0.99}),
    "diagnosis, U-Net": Attempt("diagnosis", {"epochs": 12, "steps": 150, "average": 0.99, "channels_last": True}),
    "diagnosis, ViT": Attempt(
        "diagnosis",
        {"epochs": 8, "steps": 200, "average": 0.99, "learning_rate": 1e-3, "warmup": 100},
        {"network": {"name": "vit"}, "batch": 4},
    ),
}
BARS = {
    "segmentation": {"grey-matter": 0.90, "white-matter": 0.90, "lesion": 0.60},
    "detection": {"lesion": 0.80},
    "diagnosis": {"lesion": 0.95},
}
MEASURES = {"segmentation": "dice", "detection": "sensitivity_at_1_false_positive", "diagnosis": "auc"}


def main(wanted: list[str]) -> None:
    """Run the attempts whose task is wanted, all by default."""
    file = RESULTS / "tasks.json"
    known: dict[str, Any] = json.loads(file.read_text())["attempts"] if file.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        join_ray()
        folder = Path(place)
        write_brain_cohort(
            folder / "source",
            subjects=SUBJECTS,
            illness=Illness(HEALTHY),
            seed=SEED,
            over=lambda function, numbers: stream(numbers, function),
        )
        cohort = medray.ingest(folder / "source", folder / "cohort")
        for name, attempt in ATTEMPTS.items():
            if not wanted or attempt.task in wanted:
                known[name] = run(attempt, cohort, folder / name.replace(", ", "-").lower())
                save("tasks", {"subjects": SUBJECTS, "healthy": HEALTHY, "splits": SPLITS, "attempts": known})
                draw(known)


def draw(known: dict[str, Any]) -> None:
    """Plot each target's score with its interval, and its bar as a line."""
    rows = [(name, target, found) for name, attempt in known.items() for target, found in attempt["targets"].items()]
    figure = Figure(figsize=(7.5, 0.8 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for height, (name, _, found) in enumerate(rows):
        low, high = found["interval"]
        axes.barh(height, found["score"], color="#3b82c4" if "ViT" not in name else "#7a8894", height=0.6)
        axes.plot([low, high], [height] * 2, color="#1b2733", linewidth=1.2)
        axes.plot([found["bar"]] * 2, [height - 0.42, height + 0.42], color="#d08a3c", linewidth=2)
        axes.annotate(f"{found['score']:.3f}", (0.02, height), color="white", va="center", fontsize=9)
    words = [f"{name}: {target},\n{MEASURES[ATTEMPTS[name].task].replace('_', ' ')}" for name, target, _ in rows]
    axes.set_yticks(range(len(rows)), words, fontsize=7)
    axes.set(xlim=(0, 1), xlabel="score on held-out subjects, its 95 % interval (black) and the bar (orange)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{SUBJECTS} simulated people, four in ten of them healthy", fontsize=10)
    figure.savefig(RESULTS / "tasks.png", dpi=110)


def run(attempt: Attempt, cohort: Cohort, folder: Path) -> dict[str, Any]:
    """Plan, prepare, fit and score."""
    started = time.perf_counter()
    plan = medray.plan(cohort, task=attempt.task, changes=SPLITS | attempt.changes)
    prepared = medray.prepare(cohort, plan, folder / "prepared")
    run = medray.fit(
        prepared,
        medray.FitConfig(**attempt.fit),
        name="attempt",
        runs=folder / "runs",
        on_epoch=lambda record: print({key: record[key] for key in ("epoch", "loss", "scores", "seconds")}, file=sys.stderr),
    )
    fitted = time.perf_counter()
    found = score_cases(medray.Predictor.load(Path(run.model.path)), cohort, held_out(cohort, plan, "test"))
    measure = MEASURES[attempt.task]
    targets = {
        name: {
            "score": found.overall.summary[name][measure],
            "interval": found.overall.intervals[name][measure],
            "bar": BARS[attempt.task].get(name),
            "all": found.overall.summary[name],
        }
        for name in plan.targets
    }
    return {
        **stamp(),
        "seed": SEED,
        "task": attempt.task,
        "network": plan.network.name,
        "fit": attempt.fit,
        "spacing_mm": plan.spacing_mm,
        "patch": plan.patch,
        "measure": measure,
        "targets": targets,
        "scans": len(found.cases),
        "seconds": fitted - started,
        "best_epoch": run.record["best_epoch"],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
