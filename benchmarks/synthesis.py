"""What are synthetic images worth? A generator learns a small cohort; fits with and without its images meet on held-out people.

Few training subjects, as where one would want synthetic images; many test subjects, so that a difference can be seen. Says what
the gate measured, and the gain of each target with its 95 % interval over seeds, above or below zero. A picture shows a real
image and synthetic ones with their label maps.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from report import RESULTS, bars, save

import medray
from medray.cohort.cohort import Cohort
from medray.engine import join_ray, stream
from medray.imaging.volume import Volume
from medray.samples.brain import write_brain_cohort

SUBJECTS = 30
SPLITS: dict[str, Any] = {"val": 0.1, "test": 0.49}
GENERATOR: dict[str, Any] = {"epochs": 8, "steps": 75, "learning_rate": 1e-3, "average": 0.98, "channels_last": True}
FIT: dict[str, Any] = {
    "epochs": 8,
    "steps": 60,
    "average": 0.97,
    "learning_rate": 5e-3,
    "picture": False,
    "channels_last": True,
}
COUNT = int(os.environ.get("BENCH_IMAGES", "24"))
SEEDS = int(os.environ.get("BENCH_SEEDS", "3"))


def main() -> None:
    """Train, synthesise, measure, save."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["MEDRAY_HOME"] = str(folder / "home")
        join_ray()
        write_brain_cohort(folder / "source", subjects=SUBJECTS, over=lambda function, numbers: stream(numbers, function))
        cohort = medray.ingest(folder / "source", folder / "cohort", profile="none")
        started = time.perf_counter()
        recipe = medray.plan(cohort, task="synthesis", changes=SPLITS)
        real = medray.prepare(cohort, recipe, folder / "real")
        run = medray.fit(real, medray.FitConfig(**GENERATOR), name="generator", on_epoch=told)
        medray.Registry().register(medray.card_from_run(run, plan=recipe), run.model)
        trained = time.perf_counter() - started
        made = medray.synthesise("generator", real, folder / "synthetic", count=COUNT, seed=1)
        picture(cohort, made.cohort)
        result: dict[str, Any] = {
            "subjects": {split: len({row.subject for row in real.of(split)}) for split in ("train", "val", "test")},
            "generator": GENERATOR
            | {"seconds": trained, "scores": run.record["scores"], "best_epoch": run.record["best_epoch"]},
            "images": len(made.cohort.rows),
            "gate": {key: value for key, value in asdict(made.judgement).items() if key != "copies"},
            "copies": len(made.judgement.copies),
            "fit": FIT,
            "gain": None,
        }
        if made.judgement.passed:
            result["gain"] = gain(cohort, made.cohort, folder)
        save("synthesis", result)
        if result["gain"]:
            sides = {"without": result["gain"]["without"], "medray, with": result["gain"]["with_synthetic"]}
            shown = {
                f"{side}, {name}": float(np.mean(found[name]))
                for name in result["gain"]["gain"]
                for side, found in sides.items()
            }
            bars("synthesis", f"test Dice without and with {COUNT} synthetic images, mean of {SEEDS} seeds", shown, "Dice")


def gain(cohort: Cohort, synthetic: Cohort, folder: Path) -> dict[str, Any]:
    """Fit with and without."""
    recipe = medray.plan(cohort, changes=SPLITS)
    without = medray.prepare(cohort, recipe, folder / "without")
    both = medray.prepare(cohort, recipe, folder / "with", synthetic=synthetic)
    found = medray.measure_gain(
        without,
        both,
        cohort,
        medray.FitConfig(**FIT),
        seeds=SEEDS,
        on_fit=lambda side, seed, scores: print(side, seed, dict(scores), file=sys.stderr),
    )
    return found.plain()


def told(record: Any) -> None:
    """Say how an epoch went."""
    print({key: record[key] for key in ("epoch", "loss", "scores", "seconds")}, file=sys.stderr)


def picture(cohort: Cohort, synthetic: Cohort) -> None:
    """Draw one real image and five synthetic ones, and their label maps."""
    shown = [("real", cohort, cohort.rows[0]), *(("synthetic", synthetic, row) for row in synthetic.rows[:5])]
    figure = Figure(figsize=(2.1 * len(shown), 4.4), layout="constrained")
    axes = figure.subplots(2, len(shown))
    labels = len(synthetic.index.labels.names) if synthetic.index.labels else 1
    for column, (name, place, row) in enumerate(shown):
        volume, label = place.volume(row), place.mask(row)
        image, mask = volume.reoriented(), Volume(label[np.newaxis], volume.affine).reoriented().voxels[0]
        middle = image.shape[2] // 2
        aspect = image.spacing_mm[1] / image.spacing_mm[0]
        axes[0, column].imshow(image.voxels[0, :, :, middle].T, cmap="gray", aspect=aspect)
        axes[1, column].imshow(
            mask[:, :, middle].T, cmap="viridis", vmin=0, vmax=labels, aspect=aspect, interpolation="nearest"
        )
        axes[0, column].set_title(name, fontsize=9)
        for row_of in axes[:, column]:
            row_of.set_axis_off()
    figure.savefig(RESULTS / "synthesis_images.png", dpi=90)


if __name__ == "__main__":
    main()
