"""How long from a network's map to labels on the image's own grid, and in how much memory?

A map of 20 and of 117 classes on a grid of 1.5 mm, 170 voxels a side, to labels at 256 a side, on two cores: medray, MONAI's
``Invertd`` and ``AsDiscreted``, nnU-Net's export with its default resampling and with its torch variant (in an environment that
has nnunetv2: the one that ``MEDRAY_BENCH_PYTHON`` names). Every side gets the same map, and labels are compared voxel by voxel.
Then one whole prediction of 117 classes on 512 voxels a side, of which memory beyond the input is what counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import bars, save

GRID, SIZE = 170, 256
CLASSES = (20, 117)
SIDES = ("medray", "nnunet", "nnunet-torch", "monai")
HERE = Path(__file__).parent
LEAST_AGREEMENT = 0.9999


def main() -> None:
    """Measure all sides and save the figures."""
    torch.set_num_threads(2)
    result: dict[str, Any] = {"grid": GRID, "size": SIZE, "cores": 2}
    with tempfile.TemporaryDirectory() as place:
        for count in CLASSES:
            source = Path(place) / f"map-{count}.npy"
            np.save(source, softmax_map(count, GRID))
            result[f"{count} classes"] = compare(source, Path(place))
            source.unlink()
        for kind in ("regions", "noise"):
            words = [sys.executable, str(HERE / "export_whole.py"), kind]
            result[f"whole prediction of {kind}, 117 classes, 512 a side"] = alone(words)
    save("export", result)
    seconds = {
        f"{side}, {count} classes": min(result[f"{count} classes"][side]["seconds"])
        for count in CLASSES
        for side in SIDES
        if "seconds" in result[f"{count} classes"][side]
    }
    bars("export", f"from a map of {GRID} voxels a side to labels at {SIZE}", seconds, "seconds, two cores")


def softmax_map(count: int, size: int) -> np.ndarray[Any, Any]:
    """Return ``(count, size, size, size)`` probabilities of rounded regions that fill half of the volume."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, size, (count - 1, 3))
    radii = rng.uniform(0.06, 0.16, count - 1) * size * (20 / count) ** 0.33
    axes = torch.meshgrid(*[torch.arange(size, dtype=torch.float32)] * 3, indexing="ij")
    channels = torch.zeros(count, size, size, size)
    channels[0] = -8
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), start=1):
        squares = [(axis - float(at)) ** 2 for axis, at in zip(axes, centre, strict=True)]
        channels[number] = float(radius) - torch.sqrt(torch.stack(squares).sum(dim=0))
    return channels.softmax(dim=0).numpy()


def compare(source: Path, place: Path) -> dict[str, Any]:
    """Run every side on one map."""
    found: dict[str, Any] = {}
    for side in SIDES:
        python = os.environ.get("MEDRAY_BENCH_PYTHON", sys.executable) if "nnunet" in side else sys.executable
        words = [python, str(HERE / "export_side.py"), side, str(source), str(SIZE), str(place / side)]
        found[side] = alone(words)
    ours = np.load(place / "medray.npy")
    for side in SIDES[1:]:
        if "seconds" in found[side]:
            theirs = np.load(place / f"{side}.npy")
            found[side]["agreement"] = float((ours == theirs).mean())
            found[side]["times_as_long"] = min(found[side]["seconds"]) / min(found["medray"]["seconds"])
            found[side]["times_the_memory"] = found[side]["peak_mib"] / found["medray"]["peak_mib"]
    return found


def alone(words: list[str]) -> dict[str, Any]:
    """Run a side in its own process and return what it says."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=HERE)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:200]}
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


if __name__ == "__main__":
    main()
