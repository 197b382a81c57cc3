"""What does Ray Train cost a step, and how long does a step wait for data?

The same loop (`medray.training.loop`) with the same cases, seed and threads runs in turn as plain torch in this process and
under Ray Train, twice each, each side as a user gets it: medray sets glibc's allocator for its Ray workers (`KEEP_MEMORY` in
`medray.training.trainer`), which gains about a tenth of a step, and a plain process has glibc's defaults. The ratio is that of
the median steps over all epochs but the first, which warms caches up.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from report import bars, save

import medray
from medray.engine import join_ray, stream
from medray.preprocessing.prepared import Prepared, read_case
from medray.samples.brain import write_brain_cohort
from medray.training.data import Batches
from medray.training.loop import Learner, run_epochs

CONFIG: dict[str, Any] = {"epochs": 4, "steps": 40}
THREADS = 2
ROUNDS = 2


def main() -> None:
    """Run both sides in turn and save the figures."""
    with tempfile.TemporaryDirectory() as place:
        join_ray()
        folder = Path(place)
        write_brain_cohort(folder / "source", subjects=8, over=lambda function, numbers: stream(numbers, function))
        cohort = medray.ingest(folder / "source", folder / "cohort")
        prepared = medray.prepare(cohort, medray.plan(cohort), folder / "prepared")
        plain: list[Mapping[str, Any]] = []
        under_ray: list[Mapping[str, Any]] = []
        for number in range(ROUNDS):
            plain += plain_torch(prepared)[1:]
            run = medray.fit(prepared, medray.FitConfig(**CONFIG), name=f"round-{number}", runs=folder / "runs")
            under_ray += run.history[1:]
    result = {
        "plain_step_s": step(plain),
        "ray_step_s": step(under_ray),
        "ratio": step(under_ray) / step(plain),
        "plain_epochs_step_s": [record["step_seconds"] for record in plain],
        "ray_epochs_step_s": [record["step_seconds"] for record in under_ray],
        "wait_share_plain": statistics.mean(record["wait_share"] for record in plain),
        "wait_share_ray": statistics.mean(record["wait_share"] for record in under_ray),
        "threads": THREADS,
        "losses_equal": [a["loss"] == b["loss"] for a, b in zip(plain, under_ray, strict=True)],
    }
    save("train", result)
    bars(
        "train",
        f"one training step, {THREADS} threads, 2 patches of 64³",
        {"plain torch": result["plain_step_s"] * 1000, "medray under Ray Train": result["ray_step_s"] * 1000},
        "milliseconds, median",
    )


def plain_torch(prepared: Prepared) -> Sequence[Mapping[str, Any]]:
    """Run the loop without Ray."""
    torch.set_num_threads(THREADS)
    config = medray.FitConfig(**CONFIG)
    train, val = ([read_case(prepared.root.join(row.file)) for row in prepared.of(split)] for split in ("train", "val"))
    learner = Learner.fresh(prepared.plan, config)
    run_epochs(learner, Batches(train, prepared.plan, config), val, lambda record: None)
    return learner.history


def step(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the median of the epochs' median steps."""
    return float(statistics.median(record["step_seconds"] for record in records))


if __name__ == "__main__":
    main()
