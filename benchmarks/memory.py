"""Does memory stay flat when a cohort grows? Ingest and prepare 20 and 200 scans, and watch the workers' memory.

The 200 are ten copies of the 20, so that the largest scan is the same: a larger draw would have a larger maximum. A thread
reads every Ray worker's own high-water mark of resident memory from the kernel, less the mapped files and shared memory in it;
the figure is the largest any one worker reached. (Samples of the momentary size would find a higher peak the longer they last.)
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
from report import bars, save

import medray
from medray.engine import join_ray, stream
from medray.samples.brain import write_brain_cohort

FEW = 20
FACTOR = 10


def main() -> None:
    """Measure both sizes and save the figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        join_ray()
        write_brain_cohort(
            folder / "few", subjects=FEW, formats=("nifti",), over=lambda function, numbers: stream(numbers, function)
        )
        for copy in range(FACTOR):
            shutil.copytree(folder / "few", folder / "many" / f"copy-{copy}")
        shutil.copy(folder / "few" / "dseg.tsv", folder / "many")
        ray.shutdown()
        peaks = {(stage, name): peak for name in ("few", "many") for stage, peak in measure(folder, name).items()}
    result: dict[str, Any] = {"scans": {"few": FEW, "many": FEW * FACTOR}}
    for stage in ("ingest", "prepare"):
        few, many = peaks[stage, "few"], peaks[stage, "many"]
        result[stage] = {"few_mib": few, "many_mib": many, "growth": many / few - 1}
    save("memory", result)
    values = {
        f"medray {stage}, {name} scans": peaks[stage, name] for stage in ("ingest", "prepare") for name in ("few", "many")
    }
    bars("memory", f"largest worker, {FEW} against {FEW * FACTOR} scans", values, "MiB, high-water mark of its own memory")


def measure(folder: Path, name: str) -> dict[str, float]:
    """Ingest and prepare one size, each on a fresh cluster, and return the peaks in MiB."""
    peaks = {}

    def on_fresh_cluster(stage: str, work: Callable[[], Any]) -> Any:
        join_ray()
        with watched() as peak:
            made = work()
        ray.shutdown()
        peaks[stage] = peak[0]
        return made

    cohort = on_fresh_cluster("ingest", lambda: medray.ingest(folder / name, folder / f"{name}-cohort"))
    plan = medray.plan(cohort, changes={"spacing_mm": [1.2, 1.2, 1.2]})
    on_fresh_cluster("prepare", lambda: medray.prepare(cohort, plan, folder / f"{name}-prepared"))
    return peaks


@contextmanager
def watched() -> Iterator[list[float]]:
    """Sample the workers until the block ends; the list's one entry is the peak so far in MiB."""
    peak, stop = [0.0], threading.Event()
    me = psutil.Process()

    def sample() -> None:
        while not stop.wait(0.05):
            for child in me.children(recursive=True):
                try:
                    if "ray::" in child.name() or any("ray::" in word for word in child.cmdline()[:1]):
                        peak[0] = max(peak[0], high_water_mib(child.pid))
                except (psutil.Error, OSError):
                    continue

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def high_water_mib(pid: int) -> float:
    """Return the most that a process ever held in memory of its own, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmHWM", "RssFile", "RssShmem"))}
    return (kib["VmHWM"] - kib["RssFile"] - kib["RssShmem"]) / 1024


if __name__ == "__main__":
    main()
