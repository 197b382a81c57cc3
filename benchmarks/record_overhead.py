"""What do records and metrics cost a request?

One endpoint whose replica keeps a record of each prediction and counts it, and in every other round doesn't: in one process,
since two that do the same differ by some percent, too. Rounds take turns in their order. Latency is one caller's, one request
after another, the first of each round left out: what is done after the round before falls on it. Throughput is that of several
callers at once. Beside it stands the CPU time that the replica takes for a request, which other programs of the machine
disturb less. Of each, the rounds' differences give an interval. What is done
before the answer goes out is timed by itself, too.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import ray
from numpy.typing import NDArray
from ray import serve
from report import bars, in_folder, save

import medray
from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.registry.card import ModelCard
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import Protocol, scan_subject
from medray.samples.subject import make_subject
from medray.serving import app
from medray.serving.pool import Pool
from medray.serving.witness import Told
from medray.storage.location import locate

CALLERS, IMAGES = 4, 8
TIMES = float(os.environ.get("BENCH_TIMES", "1"))
SIZES = {"head at 2.8 mm": (Protocol(spacing=2.8), 60, 21, 10), "head at 1 mm": (Protocol(), 24, 5, 8)}
"""Name to protocol, rounds, requests a round one after another, and requests a round at once."""
SIDES = ("with", "without")
REST_S = 0.3
"""After which what a replica does after an answer is done."""


def main() -> None:
    """Measure, save."""
    in_folder(measure)


def measure(folder: Path) -> None:
    """Register an untrained model, serve it, ask."""
    os.environ["MEDRAY_HOME"] = str(folder / "home")
    os.environ["BENCH_SWITCH"] = str(folder / "off")
    register(folder)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    result: dict[str, Any] = {}
    with served() as url:
        for name, (protocol, rounds, one_by_one, at_once) in SIZES.items():
            result[name] = compared(url, scans(protocol), max(2, round(TIMES * rounds)), one_by_one, at_once)
            print(name, result[name], file=sys.stderr)
    ray.shutdown()
    save("record_overhead", {"callers": CALLERS, **result})
    shown = {f"{name}: {what}": found["added"][what][0] for name, found in result.items() for what in found["added"]}
    bars("record_overhead", "What records and metrics add to a request", shown, "ms, or percent")


def register(folder: Path) -> None:
    """Register a U-Net of the plan's usual size, untrained: what it says doesn't matter here."""
    import json

    import torch
    from safetensors.torch import save_file

    from medray import config
    from medray.models.networks import build_model
    from medray.tasks.task import task_of

    source = folder / "source"
    for number in range(4):
        rng = np.random.default_rng(number)
        scan = scan_subject(make_subject(load_anatomy(), rng, lesions=2), rng, Protocol(spacing=2))
        where = source / f"sub-{number}"
        where.mkdir(parents=True)
        (where / f"sub-{number}_T1w.nii.gz").write_bytes(write_nifti(scan.image))
        (where / f"sub-{number}_dseg.nii.gz").write_bytes(write_nifti(Volume(scan.mask[np.newaxis], scan.image.affine)))
    (source / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tgrey-matter\n2\twhite-matter\n3\tlesion\n")
    plan = medray.plan(medray.ingest(source, folder / "cohort", labels="**/*_dseg.nii.gz"))
    ray.shutdown()
    torch.manual_seed(0)
    task = task_of(plan)
    (folder / "model").mkdir()
    save_file(
        build_model(plan.network, task.inputs, task.channels, plan.patch).state_dict(), folder / "model" / "weights.safetensors"
    )
    (folder / "model" / "plan.json").write_text(json.dumps(config.dump(plan)))
    card = ModelCard(name="brain", created="2026", plan=plan, scores={}, subjects={})
    medray.Registry().register(card, locate(folder / "model"))


class Switched(Pool.func_or_class):  # type: ignore[misc, name-defined]
    """A replica that keeps no record while there is a file."""

    async def _tell(self, told: Told) -> None:
        if not Path(os.environ["BENCH_SWITCH"]).exists():
            started = time.perf_counter()
            await super()._tell(told)
            with Path(os.environ["BENCH_SWITCH"]).with_name("told").open("a") as file:
                file.write(f"{1000 * (time.perf_counter() - started)}\n")


@contextmanager
def served() -> Iterator[str]:
    """Serve the model; give the URL."""
    serve.start(http_options={"host": "127.0.0.1", "port": 8767})
    app.Pool = Pool.options(func_or_class=Switched)  # type: ignore[attr-defined]
    settings = {"models": ["brain/1"], "insecure": True, "cpus": 1, "max_replicas": 1}
    handle = serve.run(app.build(settings), name="medray", route_prefix="/")
    handle.ready.remote().result()
    yield "http://127.0.0.1:8767/v1/segment/brain/1"
    serve.shutdown()


def switch(side: str) -> None:
    """Have records kept or not."""
    file = Path(os.environ["BENCH_SWITCH"])
    if side == "with":
        file.unlink(missing_ok=True)
    else:
        file.touch()


def scans(protocol: Protocol) -> list[bytes]:
    """Return some images."""
    found = []
    for number in range(IMAGES):
        rng = np.random.default_rng([1, number])
        found.append(write_nifti(scan_subject(make_subject(load_anatomy(), rng, lesions=2), rng, protocol).image))
    return found


def compared(url: str, images: list[bytes], rounds: int, one_by_one: int, at_once: int) -> dict[str, Any]:
    """Ask in turn with and without."""
    found: dict[str, dict[str, list[float]]] = {side: {"ms": [], "a_second": [], "cpu_ms": []} for side in SIDES}
    replica = the_replica()
    with httpx.Client(timeout=300) as client, ThreadPoolExecutor(CALLERS) as callers:

        def ask(number: int) -> float:
            started = time.perf_counter()
            client.post(url, content=images[number % len(images)]).raise_for_status()
            return time.perf_counter() - started

        for number in range(2 * len(images)):
            ask(number)
        for number in range(rounds):
            for side in SIDES if number % 2 else SIDES[::-1]:
                switch(side)
                found[side]["ms"].append(1000 * statistics.median([ask(image) for image in range(one_by_one)][1:]))
                started, before = time.perf_counter(), sum(replica.cpu_times()[:2])
                list(callers.map(ask, range(at_once)))
                found[side]["a_second"].append(at_once / (time.perf_counter() - started))
                time.sleep(REST_S)
                found[side]["cpu_ms"].append(1000 * (sum(replica.cpu_times()[:2]) - before) / at_once)
    middle = {side: {what: round(statistics.median(found[side][what]), 3) for what in found[side]} for side in SIDES}
    told = Path(os.environ["BENCH_SWITCH"]).with_name("told")
    before = round(statistics.median(map(float, told.read_text().split())), 3)
    told.unlink()
    return {"rounds": rounds, **middle, "before_the_answer_ms": before, "added": added(found["with"], found["without"])}


def the_replica() -> psutil.Process:
    """Return the process of the pool's replica."""
    [found] = [one for one in psutil.process_iter() if "ServeReplica:medray:Pool" in " ".join(safe(one))]
    return found


def safe(process: psutil.Process) -> list[str]:
    """Return a process's command; nothing of one that has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def added(one: dict[str, list[float]], other: dict[str, list[float]]) -> dict[str, tuple[float, float, float]]:
    """Say what the first side costs more, each with the ends of its 95 % interval by the bootstrap over rounds."""
    both = {what: (np.array(one[what]), np.array(other[what])) for what in one}
    return {
        "p50, ms": interval(both["ms"][0] - both["ms"][1]),
        "throughput, %": interval(100 * (1 - both["a_second"][0] / both["a_second"][1])),
        "CPU time, %": interval(100 * (both["cpu_ms"][0] / both["cpu_ms"][1] - 1)),
    }


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median and its interval."""
    drawn = np.median(np.random.default_rng(0).choice(values, (4000, len(values))), axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return round(float(np.median(values)), 3), round(float(low), 3), round(float(high), 3)


if __name__ == "__main__":
    main()
