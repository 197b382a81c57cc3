"""The medray side of `benchmarks/time_to_dice.py`: ingest, plan, prepare and fit by the Python API.

Usage: dice_medray.py FOLDER OUT STARTED.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import medray
from medray.engine import free_gpus
from medray.formats.nifti import write_nifti

FIT: dict[str, Any] = {
    "epochs": 12,
    "steps": 80,
    "average": 0.9,
    "learning_rate": 1e-2,
    "picture": False,
    "channels_last": True,
}
PLAN: dict[str, Any] = {
    "targets": ["grey-matter", "white-matter"],
    "val": 0.2,  # by these two the split of all sides was made
    "test": 0.1,
}
CPU_PLAN: dict[str, Any] = {"network": {"features": [32, 64, 128]}}
GPU_FIT: dict[str, Any] = {"epochs": 6, "learning_rate": 2e-3, "compile": True}
GPU_GB = 8
"""What nnU-Net's plan is made for, too."""
FIT_CHANGES, PLAN_CHANGES = (json.loads(os.environ.get(name, "{}")) for name in ("BENCH_FIT", "BENCH_PLAN"))


def main(folder: Path, out: Path, started: float) -> None:
    """Train, keeping each epoch's weights, then predict with each of them."""
    split = json.loads((folder / "split.json").read_text())
    stages: dict[str, float] = {}
    cohort = medray.ingest(folder / "source", out / "cohort", profile="none")
    stages["ingested"] = time.time() - started
    gpu = free_gpus() > 0
    memory = medray.Memory(GPU_GB, gpu=True) if gpu else None
    fit = FIT | (GPU_FIT if gpu else {}) | FIT_CHANGES
    plan = medray.plan(cohort, changes=PLAN | ({} if gpu else CPU_PLAN) | PLAN_CHANGES, memory=memory)
    prepared = medray.prepare(cohort, plan, out / "prepared")
    stages["prepared"] = time.time() - started
    assert all(split[row.subject] == row.split for row in prepared.cases), "every side has the same split"
    seconds: list[float] = []
    run = medray.fit(
        prepared,
        medray.FitConfig(**fit, keep=fit["epochs"]),
        name="side",
        runs=out / "runs",
        on_epoch=lambda record: seconds.append(time.time() - started),
    )
    stages["fitted"] = time.time() - started
    scans = [row for row in cohort.rows if split[row.subject] == "val"]
    marks = []
    weights = sorted(Path(run.folder.path).glob("train/**/weights.safetensors"))
    for number, (file, when) in enumerate(zip(weights, seconds, strict=True)):
        model = out / f"model-{number}"
        model.mkdir()
        shutil.copy(file, model)
        shutil.copy(Path(run.model.path) / "plan.json", model)
        masks = predict(model, cohort, scans)
        marks.append({"seconds": when, "masks": str(masks), "validation": run.history[number]["scores"]})
    pace = statistics.median(record["samples_per_second"] for record in run.history) * math.prod(plan.patch)
    facts = {
        "stages": stages,
        "device": "cuda" if gpu else "cpu",
        "voxels_per_second": pace,
        "wait_share": statistics.median(record["wait_share"] for record in run.history),
        "spacing_mm": plan.spacing_mm,
        "network": [plan.network.name, *plan.network.features],
        "patch": plan.patch,
        "batch": plan.batch,
        "fit": fit,
    }
    print(json.dumps({**facts, "steps_s": [record["seconds"] for record in run.history], "marks": marks}))


def predict(model: Path, cohort: medray.Cohort, scans: list[Any]) -> Path:
    """Write label maps on the scans' own grids."""
    masks = model / "masks"
    masks.mkdir()
    predictor = medray.Predictor.load(model)
    for row in scans:
        (masks / f"{row.subject}.nii.gz").write_bytes(write_nifti(predictor.predict(cohort.volume(row)).mask))
    return masks


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
