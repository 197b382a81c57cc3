"""What every benchmark shares: versions, hardware, and where results go."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

__all__ = ["RESULTS", "bars", "in_folder", "save", "stamp"]

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("medray", "monai", "torch", "ray", "numpy", "scipy", "nibabel", "isal", "SimpleITK")


def save(name: str, result: dict[str, Any]) -> None:
    """Write ``results/NAME.json`` with versions and hardware, and print it."""
    record = {"benchmark": name, **stamp(), **result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


def in_folder(measure: Callable[[Path], None]) -> None:
    """Measure in the folder that the command line names, where what was made is kept, or in one that is deleted after."""
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place))


def stamp() -> dict[str, Any]:
    """Return when and on what this is measured: for a part of a result, too, whose other parts were measured before."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def bars(name: str, title: str, values: dict[str, float], unit: str) -> None:
    """Draw ``results/NAME.png``: one horizontal bar a value."""
    figure = Figure(figsize=(7.5, 0.6 + 0.45 * len(values)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(
        list(values), list(values.values()), color=["#3b82c4" if "medray" in key else "#a9b6c2" for key in values]
    )
    axes.bar_label(drawn, fmt="%.3g", padding=4)
    axes.invert_yaxis()
    axes.set(xlabel=unit)
    figure.suptitle(title, fontsize=10)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
