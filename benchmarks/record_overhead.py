"""What do records and metrics cost a request?

Two endpoints in one Ray, the same model and images: one as it is, one whose replica keeps no record and counts nothing. They
are asked in turn, in rounds whose order alternates, so that whatever else the machine does falls on both. Latency is one
caller's, one request after another; throughput is that of several callers at once.
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
import ray
from ray import serve
from report import bars, in_folder, save

import medray
from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.registry.card import ModelCard
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import Protocol, scan_subject
from medray.samples.subject import make_subject
from medray.serving.app import build
from medray.storage.location import locate

ROUNDS, CALLERS, IMAGES = int(os.environ.get("BENCH_ROUNDS", "12")), 4, 8
SIZES = {"head at 1 mm": (Protocol(), 6, 12), "head at 2.8 mm": (Protocol(spacing=2.8), 24, 60)}
"""Name to protocol, requests a round one after another, and requests a round at once."""
SIDES = ("with", "without")


def main() -> None:
    """Measure, save."""
    in_folder(measure)


def measure(folder: Path) -> None:
    """Register an untrained model, serve it twice, ask."""
    os.environ["MEDRAY_HOME"] = str(folder / "home")
    register(folder)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    result: dict[str, Any] = {}
    with served() as urls:
        for name, (protocol, one_by_one, at_once) in SIZES.items():
            result[name] = compared(urls, scans(protocol), one_by_one, at_once)
            print(name, result[name], file=sys.stderr)
    ray.shutdown()
    save("record_overhead", {"rounds": ROUNDS, "callers": CALLERS, **result})
    shown = {f"{name}: {what}": value for name, found in result.items() for what, value in found["added"].items()}
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


@contextmanager
def served() -> Iterator[dict[str, str]]:
    """Serve the model under two paths; give side to URL."""
    serve.start(http_options={"host": "127.0.0.1", "port": 8767})
    for side in SIDES:
        settings = {"models": ["brain/1"], "insecure": True, "cpus": 1, "record": side == "with"}
        handle = serve.run(build(settings), name=side, route_prefix=f"/{side}")
        handle.ready.remote().result()
    yield {side: f"http://127.0.0.1:8767/{side}/v1/segment/brain/1" for side in SIDES}
    serve.shutdown()


def scans(protocol: Protocol) -> list[bytes]:
    """Return some images."""
    found = []
    for number in range(IMAGES):
        rng = np.random.default_rng([1, number])
        found.append(write_nifti(scan_subject(make_subject(load_anatomy(), rng, lesions=2), rng, protocol).image))
    return found


def compared(urls: dict[str, str], images: list[bytes], one_by_one: int, at_once: int) -> dict[str, Any]:
    """Ask both sides in turn."""
    waits: dict[str, list[float]] = {side: [] for side in SIDES}
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    with httpx.Client(timeout=300) as client, ThreadPoolExecutor(CALLERS) as callers:

        def ask(url: str, number: int) -> float:
            started = time.perf_counter()
            client.post(url, content=images[number % len(images)]).raise_for_status()
            return time.perf_counter() - started

        for url in urls.values():
            for number in range(len(images)):
                ask(url, number)
        for number in range(ROUNDS):
            for side in SIDES if number % 2 else SIDES[::-1]:
                waits[side] += [ask(urls[side], image) for image in range(one_by_one)]
                started = time.perf_counter()
                list(callers.map(lambda image, url=urls[side]: ask(url, image), range(at_once)))
                rates[side].append(at_once / (time.perf_counter() - started))
    found = {side: told(waits[side], rates[side]) for side in SIDES}
    return {**found, "added": added(waits, rates)}


def told(waits: list[float], rates: list[float]) -> dict[str, float]:
    """Sum one side up."""
    return {
        "p50_ms": round(1000 * statistics.median(waits), 2),
        "p95_ms": round(1000 * float(np.percentile(waits, 95)), 2),
        "a_second": round(statistics.median(rates), 3),
    }


def added(waits: dict[str, list[float]], rates: dict[str, list[float]]) -> dict[str, float]:
    """Say what the first side costs more: of throughput the median over rounds, in which both ran one after the other."""
    ratios = [1 - one / other for one, other in zip(rates["with"], rates["without"], strict=True)]
    medians = {side: statistics.median(found) for side, found in waits.items()}
    spread = np.percentile(np.random.default_rng(0).choice(ratios, (2000, len(ratios))).mean(axis=1), (2.5, 97.5))
    return {
        "p50, ms": round(1000 * (medians["with"] - medians["without"]), 2),
        "throughput, %": round(100 * statistics.mean(ratios), 2),
        "throughput, % low": round(100 * float(spread[0]), 2),
        "throughput, % high": round(100 * float(spread[1]), 2),
    }


if __name__ == "__main__":
    main()
