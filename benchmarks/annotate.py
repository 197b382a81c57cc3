"""Is a label that was acknowledged ever lost? Twenty experts, a hundred cases, 2,000 labels, and a kill in the middle.

Twenty simulated experts submit a label of each of a hundred cases at once, over HTTP, to an endpoint on Ray Serve. One request
in ten is a conflict: it says that it saw another version than the newest. After half of the labels the gateway's process is
killed (SIGKILL), and the HTTP proxy's after three quarters; experts try again what wasn't answered, as their tools would.

Counted: labels that were acknowledged and aren't stored, or are stored with other voxels; conflicts that weren't answered 409
or 412; labels that are there twice; what the audit trail's verification says.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from matplotlib.figure import Figure
from report import RESULTS, save

import medray
from medray.annotation.store import LabelStore
from medray.audit import open_trail
from medray.cohort.cohort import open_cohort
from medray.formats.nifti import write_nifti
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.serving.auth import make_token
from medray.storage.location import locate

EXPERTS, CASES, PORT = 20, 100, 18434
SIDE = 64
PATIENCE_S = 120.0


@dataclass
class Seen:
    """What came back.

    Attributes:
        kept: Series and expert to the number of the version that was acknowledged and the masks' digest.
        conflicts: Status to how many requests that had to be refused.
        retries: What wasn't answered and was sent again.
        latencies: When each label was acknowledged, and after how many seconds.
    """

    kept: dict[tuple[str, str], int] = field(default_factory=dict)
    conflicts: Counter[int] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    """Measure, and save the figures."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["MEDRAY_HOME"] = str(folder / "home")
        cohort = medray.ingest(source(folder / "source", cases), folder / "cohort")
        with medray.deploy(port=PORT, cohort=cohort.root.path) as endpoint:
            begin(endpoint.url)
            seen, killed, seconds = fire(endpoint.url, [row.series for row in cohort.rows])
        result = told(seen, killed, seconds, str(folder / "cohort"))
    save("annotate", result)
    draw(seen, killed)


def source(folder: Path, cases: int) -> Path:
    """Write small scans."""
    folder.mkdir()
    for number in range(cases):
        voxels = np.random.default_rng(number).normal(100, 20, (1, SIDE, SIDE, SIDE)).astype(np.float32)
        (folder / f"case-{number:03d}.nii.gz").write_bytes(write_nifti(Volume(voxels, np.eye(4))))
    return folder


def mask_of(series: str, expert: str) -> Volume:
    """Draw what an expert draws of a case: a box of their own."""
    rng = np.random.default_rng([*series.encode(), *expert.encode()])
    low, high = rng.integers(2, 20, 3), rng.integers(30, 60, 3)
    mask = np.zeros((1, SIDE, SIDE, SIDE), np.uint8)
    mask[0, low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 1
    return Volume(mask, np.eye(4))


def begin(url: str) -> None:
    """Make the project and assign all to all."""
    with httpx.Client(base_url=url, headers=bearer("olga", "operator"), timeout=60) as client:
        project = {"name": "boxes-of-many", "names": {"box": []}, "experts": EXPERTS}
        client.post("/v1/projects", json=project).raise_for_status()
        people = {"experts": names()}
        client.post("/v1/projects/boxes-of-many/assignments", json=people).raise_for_status()


def names() -> list[str]:
    """Return the experts' names."""
    return [f"expert-{number:02d}" for number in range(EXPERTS)]


def bearer(name: str, role: str) -> dict[str, str]:
    """Return a token's header."""
    return {"Authorization": f"Bearer {make_token(name, role)}"}


def fire(url: str, series: list[str]) -> tuple[Seen, list[tuple[str, float]], float]:
    """Have all submit at once, and kill in the middle."""
    seen, total, killed = Seen(), EXPERTS * len(series), []
    began = time.monotonic()

    def kill() -> None:
        for share, name in ((0.5, "Gateway"), (0.75, "ProxyActor")):
            while len(seen.kept) < share * total:
                time.sleep(0.05)
            for process in psutil.Process().children(recursive=True):
                if name in " ".join(process.cmdline()):
                    process.kill()
                    killed.append((name, time.monotonic() - began))

    killer = threading.Thread(target=kill)
    killer.start()
    with ThreadPoolExecutor(EXPERTS) as pool:
        for done in [pool.submit(label_all, url, expert, series, seen, began) for expert in names()]:
            done.result()
    killer.join()
    return seen, killed, time.monotonic() - began


def label_all(url: str, expert: str, series: list[str], seen: Seen, began: float) -> None:
    """Label every case, in an order of one's own, and send a conflict for every tenth."""
    rng = np.random.default_rng([*expert.encode()])
    with httpx.Client(base_url=url, headers=bearer(expert, "annotator"), timeout=30) as client:
        for place, case in enumerate(rng.permutation(series).tolist()):
            path = f"/v1/projects/boxes-of-many/cases/{case}/labels/mine"
            started = time.monotonic()
            reply = patiently(client, path, write_nrrd(mask_of(case, expert)), {"If-None-Match": "*"}, seen)
            reply.raise_for_status()
            with seen.lock:
                seen.kept[case, expert] = reply.json()["version"]
                seen.latencies.append((time.monotonic() - began, time.monotonic() - started))
            if place % 10 == 0:
                other = write_nrrd(mask_of(case, f"{expert}, again"))
                stale = patiently(client, path, other, {"If-Match": '"999999"'} if place % 20 else {"If-None-Match": "*"}, seen)
                with seen.lock:
                    seen.conflicts[stale.status_code] += 1


def patiently(client: httpx.Client, path: str, body: bytes, headers: dict[str, str], seen: Seen) -> httpx.Response:
    """Send a label until there is an answer."""
    patience = time.monotonic() + PATIENCE_S
    while True:
        try:
            reply = client.put(path, content=body, headers=headers)
            why = str(reply.status_code)
            if reply.status_code < 500 or time.monotonic() > patience:
                return reply
        except httpx.TransportError as error:
            if time.monotonic() > patience:
                raise
            why = type(error).__name__
        with seen.lock:
            seen.retries[why] += 1
        time.sleep(0.3)


def told(seen: Seen, killed: list[tuple[str, float]], seconds: float, root: str) -> dict[str, Any]:
    """Compare what was acknowledged with what is stored."""
    store = LabelStore(locate(root))
    stored = {one.number: one for one in store.history(project="boxes-of-many")}
    lost = wrong = 0
    for (series, expert), number in seen.kept.items():
        one = stored.get(number)
        if one is None or (one.label.series, one.label.annotator) != (series, expert):
            lost += 1
        elif not np.array_equal(store.mask(one).voxels, mask_of(series, expert).voxels):
            wrong += 1
    verdict = open_trail().verify()
    submitted = sum(event.action == "label.submitted" for event in open_trail().events())
    times = sorted(latency for _, latency in seen.latencies)
    return {
        "experts": EXPERTS,
        "cases": len(open_cohort(locate(root)).rows),
        "acknowledged": len(seen.kept),
        "lost": lost,
        "with_other_voxels": wrong,
        "stored_versions": len(stored),
        "stored_and_never_acknowledged": len(set(stored) - set(seen.kept.values())),
        "conflicts": {str(status): count for status, count in seen.conflicts.items()},
        "killed": [{"what": name, "after_s": round(at, 1)} for name, at in killed],
        "sent_again": dict(seen.retries),
        "seconds": seconds,
        "labels_a_second": len(seen.kept) / seconds,
        "latency_s": {name: times[int(len(times) * share)] for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
        "latency_mean_s": statistics.fmean(times),
        "trail": {"events": verdict.events, "problems": list(verdict.problems), "label_events": submitted},
    }


def draw(seen: Seen, killed: list[tuple[str, float]]) -> None:
    """Draw ``results/annotate.png``: how long each label took, over time."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*seen.latencies, strict=True), ".", markersize=2, color="#3b82c4")
    for name, at in killed:
        axes.axvline(at, color="#d6453d", linewidth=1)
        axes.annotate(f"{name} killed", (at, axes.get_ylim()[1]), fontsize=8, va="top")
    axes.set(xlabel="seconds", ylabel="seconds until acknowledged", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "annotate.png", dpi=110)


if __name__ == "__main__":
    main()
