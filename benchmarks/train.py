"""What does Ray Train cost a step, how long does a step wait for data, and how soon is the first batch there?

The same loop (`medray.training.loop`) with the same cases, seed and threads runs in turn in a process of plain torch and under
Ray Train, twice each. medray sets glibc's allocator for its Ray workers (`KEEP_MEMORY` in `medray.training.trainer`), so the
plain process gets the same settings: that is the ratio. A third side, plain torch with glibc's defaults, shows what they gain.
A ratio is that of the median steps over all epochs but the first, which warms caches up. On a GPU, where there is one, both
sides compile the network (`results/train_gpu.json`); how MONAI's and nnU-Net's loops do on it is in
`benchmarks/time_to_dice.py`.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import contextlib
import statistics
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from plain import History, begin, history_of
from report import bars, save

import medray
from medray.engine import join_ray, stream
from medray.preprocessing.prepared import Prepared
from medray.samples.brain import write_brain_cohort
from medray.training.trainer import KEEP_MEMORY

GPU = torch.cuda.is_available()
NAME = "train_gpu" if GPU else "train"
CONFIG: dict[str, Any] = {"epochs": 4, "steps": 30, "compile": GPU}
THREADS = os.cpu_count() if GPU else 2
NAMES = {
    "plain": "plain torch",
    "ray": "medray under Ray Train",
    "plain_glibc_defaults": "plain torch, glibc's defaults",
}
ROUNDS = 1 if GPU else 2
MEMORY = medray.Memory(8, gpu=True) if GPU else None


def main() -> None:
    """Run both sides in turn and save the figures."""
    with tempfile.TemporaryDirectory() as place:
        join_ray()
        folder = Path(place)
        write_brain_cohort(folder / "source", subjects=8, over=lambda function, numbers: stream(numbers, function))
        cohort = medray.ingest(folder / "source", folder / "cohort")
        prepared = medray.prepare(cohort, medray.plan(cohort, memory=MEMORY), folder / "prepared")
        sides: dict[str, list[Mapping[str, Any]]] = {"plain": [], "ray": [], "plain_glibc_defaults": []}
        first_batch = []
        for number in range(ROUNDS):
            sides["plain"] += in_process(prepared, KEEP_MEMORY)[1:]
            with born() as births:
                run = medray.fit(prepared, medray.FitConfig(**CONFIG), name=f"round-{number}", runs=folder / "runs")
            sides["ray"] += run.history[1:]
            began = run.history[0]["began"]
            first_batch.append({"since_fit_s": began - run.record["started"], "since_worker_process_s": began - births[0]})
            if not GPU:  # there, activations are the GPU's
                sides["plain_glibc_defaults"] += in_process(prepared, {})[1:]
    steps = {name: step(records) for name, records in sides.items() if records}
    result = {
        "gpu": torch.cuda.get_device_name() if GPU else "not run: no GPU",
        "step_s": steps,
        "ratio": steps["ray"] / steps["plain"],
        "ratio_to_glibc_defaults": None if GPU else steps["ray"] / steps["plain_glibc_defaults"],
        "epochs_step_s": {name: [record["step_seconds"] for record in records] for name, records in sides.items()},
        "wait_share": {
            name: statistics.mean(record["wait_share"] for record in records) for name, records in sides.items() if records
        },
        "first_batch": first_batch,
        "threads": THREADS,
        "losses_equal": all(a["loss"] == b["loss"] for a, b in zip(sides["plain"], sides["ray"], strict=True)),
    }
    save(NAME, result)
    bars(
        NAME,
        f"one training step, {THREADS} threads, {prepared.plan.batch} patches of {' × '.join(map(str, prepared.plan.patch))}",
        {NAMES[name]: seconds * 1000 for name, seconds in steps.items()},
        "milliseconds, median",
    )


@contextmanager
def born() -> Iterator[list[float]]:
    """Give a list of when processes of Ray Train's workers were made meanwhile: seconds since 1970."""
    births: dict[int, float] = {}
    found: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        births[process.pid] = process.create_time()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found += sorted(births.values())


def in_process(prepared: Prepared, settings: Mapping[str, str]) -> History:
    """Run the loop without Ray with these environment variables."""
    return history_of(begin(prepared, CONFIG, threads=THREADS, settings=settings, device="cuda" if GPU else "cpu"))


def step(records: History) -> float:
    """Return the median of the epochs' median steps."""
    return float(statistics.median(record["step_seconds"] for record in records))


if __name__ == "__main__":
    main()
