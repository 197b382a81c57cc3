"""Does the endpoint hold while things die under it?

For five minutes requests come at a fixed rate, whether or not those before them were answered (open loop), for
``ball@champion`` on small scans of which both versions' answers are known. Every 20 s a replica of the pool is killed, at 90 s
and at 210 s the alias is moved, at 150 s the HTTP proxy is killed. Counted: right answers, wrong ones (not the mask of the
version which the reply names), 503 with and without ``Retry-After``, and connections that nobody took while there was no
proxy. Then 200 uploads of 16 MB at once, against an endpoint that may hold 1 GB of bodies.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from report import RESULTS, save
from safetensors.torch import save_file

import medray
from medray import config
from medray.formats.nifti import read_nifti, write_nifti
from medray.imaging.volume import Volume
from medray.models.networks import build_model
from medray.registry.card import ModelCard
from medray.samples.brain import write_brain_cohort
from medray.storage.location import locate
from medray.tasks.task import task_of

SECONDS, RATE, PORT, SCANS = 300, 4.0, 18432, 4
KILL_EVERY_S, MOVES_S, PROXY_S = 20, (90, 210), 150
UPLOADS, UPLOAD_MB, BUDGET_MB = 200, 16, 1024
PROXY = "haproxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "ProxyActor"
PARTS = ("Serve", "ProxyActor", "HAProxyManager", "haproxy")
"""Of the endpoint, by the names of their processes."""


@dataclass
class Seen:
    """What came back, and when."""

    counts: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    killed: int = 0


def main() -> None:
    """Measure both, and save the figures."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["MEDRAY_HOME"] = str(folder / "home")
        bodies, truths = make_models(folder)
        facts: dict[str, Any] = {"port": PORT, "insecure": True, "refresh_s": 0.5}
        with medray.deploy(["ball@champion"], min_replicas=2, max_replicas=2, **facts) as endpoint:
            seen = asyncio.run(fire(endpoint.url, bodies, truths, seconds))
        result = told(seen, seconds)
        save("serve_fire", result)
        draw(seen)
        with medray.deploy(["ball@champion"], bodies_mb=BUDGET_MB, **facts) as endpoint:
            save("serve_fire", {**result, "uploads": asyncio.run(uploads(endpoint.url))})


def told(seen: Seen, seconds: int) -> dict[str, Any]:
    """Return figures of what came back."""
    asked = sum(seen.counts.values())
    times = sorted(latency for _, latency in seen.latencies)
    third = len(seen.memory) // 3
    early, late = (statistics.mean(mib for _, mib in part) for part in (seen.memory[:third], seen.memory[-third:]))
    return {
        "seconds": seconds,
        "requests_a_second": RATE,
        "proxy": PROXY,
        "requests": asked,
        "outcomes": dict(seen.counts),
        "answered_share": seen.counts["right"] / asked,
        "replicas_killed": seen.killed,
        "latency_s": {name: times[int(len(times) * share)] for name, share in (("p50", 0.5), ("p99", 0.99))},
        "memory_mib": {"first_third": early, "last_third": late, "growth": late / early - 1},
    }


def make_models(folder: Path) -> tuple[list[bytes], dict[str, list[Any]]]:
    """Register two versions of a small model; return scans, and each version's masks of them."""
    write_brain_cohort(folder / "source", subjects=8, formats=("nifti",))
    cohort = medray.ingest(folder / "source", folder / "cohort", labels="*_dseg.nii.gz")
    plan = medray.plan(cohort, changes={"patch": [16, 16, 16], "network": {"name": "unet", "features": [8, 16]}})
    task, rng = task_of(plan), np.random.default_rng(0)
    scans = [
        Volume(rng.normal(100, 20, (1, 48, 48, 40)).astype(np.float32), np.diag([1.5, 1.5, 1.5, 1.0])) for _ in range(SCANS)
    ]
    truths: dict[str, list[Any]] = {}
    for version in (1, 2):
        torch.manual_seed(version)
        model, place = build_model(plan.network, task.inputs, task.channels, plan.patch), folder / f"model-{version}"
        place.mkdir()
        save_file(model.state_dict(), place / "weights.safetensors")
        (place / "plan.json").write_text(json.dumps(config.dump(plan)))
        card = ModelCard(name="ball", created="2026-01-01", plan=plan, scores={}, subjects={})
        medray.Registry().register(card, locate(place))
        predictor = medray.Predictor.load(place)
        truths[f"ball/{version}"] = [predictor.predict(scan).mask.voxels for scan in scans]
    medray.Registry().promote("ball/1")
    return [write_nifti(scan) for scan in scans], truths


async def fire(url: str, bodies: list[bytes], truths: dict[str, list[Any]], seconds: int) -> Seen:
    """Ask at a fixed rate while the plan of accidents goes on beside it."""
    seen, started = Seen(), time.monotonic()
    accidents = asyncio.create_task(have_accidents(seen, started))
    asking: list[asyncio.Task[None]] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        for number in range(int(seconds * RATE)):
            await asyncio.sleep(max(0.0, started + number / RATE - time.monotonic()))
            which = number % len(bodies)
            asking.append(asyncio.create_task(ask(client, url, bodies[which], truths, which, seen, started)))
            if number % int(RATE) == 0:
                seen.memory.append((time.monotonic() - started, memory_mib()))
        await asyncio.gather(*asking)
    accidents.cancel()
    return seen


async def ask(
    client: httpx.AsyncClient, url: str, body: bytes, truths: dict[str, list[Any]], which: int, seen: Seen, started: float
) -> None:
    """Ask once, and say how it ended."""
    asked = time.monotonic()
    try:
        reply = await client.post(f"{url}/v1/segment/ball@champion", content=body, headers={"accept": "application/x-nifti"})
    except httpx.TransportError as error:
        seen.counts[f"no connection ({type(error).__name__})"] += 1
        return
    seen.latencies.append((asked - started, time.monotonic() - asked))
    if reply.status_code != 200:
        seen.counts[f"{reply.status_code}{' with Retry-After' if 'retry-after' in reply.headers else ''}"] += 1
        return
    truth = truths[reply.headers["x-medray-model"]][which]
    seen.counts["right" if np.array_equal(read_nifti(reply.content).voxels, truth) else "wrong"] += 1


async def have_accidents(seen: Seen, started: float) -> None:
    """Kill replicas and the proxy, and move the alias."""
    plan = [(second, "replica") for second in range(KILL_EVERY_S, SECONDS, KILL_EVERY_S)]
    plan += [(second, f"ball/{2 - turn % 2}") for turn, second in enumerate(MOVES_S)] + [(PROXY_S, "proxy")]
    for second, what in sorted(plan):
        await asyncio.sleep(max(0.0, started + second - time.monotonic()))
        if what.startswith("ball/"):
            await asyncio.to_thread(medray.Registry().promote, what)
            continue
        victims = processes(PROXY if what == "proxy" else "ServeReplica:medray:Pool")
        if victims:
            victims[0].kill()
            seen.killed += what == "replica"


def processes(*names: str) -> list[psutil.Process]:
    """Return processes of this benchmark's Ray by what they call themselves."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(name in "".join(child.cmdline()[:1]) for name in names):
                found.append(child)
        except psutil.Error:
            continue
    return found


def memory_mib() -> float:
    """Return what the endpoint's processes have for themselves together."""
    total = 0
    for child in processes(*PARTS):
        try:
            total += child.memory_info().rss - child.memory_info().shared
        except psutil.Error:
            continue
    return total / 2**20


async def uploads(url: str) -> dict[str, Any]:
    """Send many large bodies at once."""
    before = {process.pid for process in processes(*PARTS)}
    body, counts, most = os.urandom(UPLOAD_MB << 20), Counter[str](), memory_mib()

    async def send(client: httpx.AsyncClient) -> None:
        try:
            reply = await client.post(f"{url}/v1/segment/ball", content=body)
            counts[f"{reply.status_code}{' with Retry-After' if 'retry-after' in reply.headers else ''}"] += 1
        except httpx.TransportError as error:
            counts[f"no connection ({type(error).__name__})"] += 1

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        sending = asyncio.gather(*(send(client) for _ in range(UPLOADS)))
        while not sending.done():
            most = max(most, memory_mib())
            await asyncio.wait([asyncio.ensure_future(sending)], timeout=0.2)
    after = {process.pid for process in processes(*PARTS)}
    return {
        "uploads": UPLOADS,
        "mb_each": UPLOAD_MB,
        "outcomes": dict(counts),
        "peak_mib": most,
        "processes_lost": len(before - after),
    }


def draw(seen: Seen) -> None:
    """Draw latencies and memory over time."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.scatter(*zip(*seen.latencies, strict=True), s=4, color="#3b82c4")
    above.set(ylabel="seconds to the answer", yscale="log")
    below.plot(*zip(*seen.memory, strict=True), color="#3b82c4")
    below.set(ylabel="MiB of all processes", xlabel="seconds", ylim=(0, None))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("a replica killed every 20 s, the alias moved twice, the proxy killed once", fontsize=10)
    figure.savefig(RESULTS / "serve_fire.png", dpi=110)


if __name__ == "__main__":
    main()
