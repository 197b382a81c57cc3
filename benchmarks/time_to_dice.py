"""How long until a segmentation is good? medray against a MONAI loop and nnU-Net v2: same scans, same split, same cores.

Each side starts as a fresh process on a folder of NIfTI files and leaves checkpoints with the seconds since it was started:
interpreter, imports, reading, preprocessing and training are in them. Only then every checkpoint segments the validation scans
whole, on their own grids, and one and the same function measures grey and white matter: a mark is reached by the first
checkpoint whose mean Dice is as high. Needs an environment with nnunetv2 (the ``bench`` extra, or ``MEDRAY_BENCH_PYTHON``);
without one that side is left out. Words choose sides: ``python benchmarks/time_to_dice.py medray monai``; the others stay as
they were, with when and on what they were measured. Fewer epochs of nnU-Net: ``BENCH_NNUNET_EPOCHS``. Where there is a GPU,
all sides train nnU-Net's network on it, medray's and nnU-Net's compiled, on patches that 8 GB hold, with all cores; the results
are ``time_to_dice_gpu``, and the voxels that a side trains on in a second are in them.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from report import RESULTS, save, stamp

from medray.cohort.splits import split_subjects
from medray.evaluation.overlap import overlap
from medray.formats.image import read_image_path

HERE = Path(__file__).parent
SUBJECTS = 13
VAL, TEST = 0.2, 0.1
LABELS = {"grey-matter": 1, "white-matter": 2}
GOALS = (0.80, 0.85, 0.90)
GPU = torch.cuda.is_available()
NAME = "time_to_dice_gpu" if GPU else "time_to_dice"
THREADS = str(os.cpu_count()) if GPU else "2"


def main(wanted: Sequence[str]) -> None:
    """Run the sides and save the figures."""
    from medray.samples.brain import write_brain_cohort

    file = RESULTS / f"{NAME}.json"
    known: dict[str, Any] = json.loads(file.read_text())["sides"] if file.exists() and wanted else {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            write_brain_cohort(folder / "source", subjects=SUBJECTS, formats=("nifti",), over=pool.map)
        split = split_subjects((f"sub-{n + 1:03d}" for n in range(SUBJECTS)), val=VAL, test=TEST)
        (folder / "split.json").write_text(json.dumps(split))
        for side in wanted or ("medray", "monai", "nnunet"):
            found = run_side(side, folder)
            if found is not None:
                known[side] = found
                told(known)


def told(sides: dict[str, Any]) -> None:
    """Save what is known so far."""
    save(
        NAME,
        {
            "gpu": torch.cuda.get_device_name() if GPU else "not run: no GPU",
            "sides": sides,
            "seconds_to": {goal: {name: seconds_to(found, goal) for name, found in sides.items()} for goal in GOALS},
        },
    )
    draw(sides)


def run_side(side: str, folder: Path) -> dict[str, Any] | None:
    """Run one side to its end and measure each of its checkpoints."""
    python = os.environ.get("MEDRAY_BENCH_PYTHON", sys.executable) if side == "nnunet" else sys.executable
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS, "MKL_NUM_THREADS": THREADS}
    if side == "nnunet" and subprocess.run([python, "-c", "import nnunetv2"], check=False, capture_output=True).returncode:
        print("nnU-Net v2 isn't installed: not run", file=sys.stderr)
        return None
    out = folder / side
    out.mkdir()
    command = [python, str(HERE / f"dice_{side}.py"), str(folder), str(out), str(time.time())]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    marks = [{**mark, "dice": dice_of(folder, Path(mark.pop("masks")))} for mark in told.pop("marks")]
    shutil.rmtree(out)
    best = max(mark["dice"]["mean"] for mark in marks)
    print(side, f"best {best:.3f} of {len(marks)} checkpoints, {marks[-1]['seconds']:.0f} s", file=sys.stderr)
    return {**stamp(), **told, "marks": marks, "best": best}


def dice_of(folder: Path, masks: Path) -> dict[str, float]:
    """Return each label's mean Dice over the validation scans on their own grids, and the mean of these."""
    found: dict[str, list[float]] = {name: [] for name in LABELS}
    for file in sorted(masks.glob("*.nii.gz")):
        name = file.name.removesuffix(".nii.gz")
        said = read_image_path(file).reoriented().voxels[0]
        true = read_image_path(next((folder / "source" / name).rglob("*_dseg.nii.gz"))).reoriented().voxels[0]
        for label, value in LABELS.items():
            found[label].append(overlap(said == value, true == value).dice)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return {**means, "mean": float(np.mean(list(means.values())))}


def seconds_to(found: dict[str, Any], goal: float) -> float | None:
    """Return when the first checkpoint as good as the goal was there."""
    return next((mark["seconds"] for mark in found["marks"] if mark["dice"]["mean"] >= goal), None)


def draw(sides: dict[str, Any]) -> None:
    """Plot Dice over seconds."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("medray", "#3b82c4"), ("monai", "#d08a3c"), ("nnunet", "#7a8894")):
        if name in sides:
            marks = sides[name]["marks"]
            axes.plot([m["seconds"] for m in marks], [m["dice"]["mean"] for m in marks], "o-", ms=3, color=colour, label=name)
    for goal in GOALS:
        axes.axhline(goal, color="#c8ced4", linewidth=0.8, zorder=0)
    axes.set(
        xlabel="seconds since the start, preprocessing included", ylabel="mean Dice of grey and white matter", ylim=(0.5, 0.97)
    )
    seconds = [mark["seconds"] for side in sides.values() for mark in side["marks"]]
    if max(seconds) > 5 * min(seconds):
        axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    where = torch.cuda.get_device_name() if GPU else "two cores"
    figure.suptitle(f"time to Dice, whole validation scans on their own grids, {where}", fontsize=10)
    figure.savefig(RESULTS / f"{NAME}.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
