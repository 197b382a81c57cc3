"""How fast is preparation, against MONAI's dictionary transforms and nnU-Net's preprocessor on the same files, grid and order?

For MONAI, both sides decode a .nii.gz, reorient to LPS, resample by cubic splines to the same grid, and z-score over all
voxels; one core each, in one process, in turn. The target spacing is the one nearest to 1.5 mm that covers each field of
view exactly, for then both sides mean the same grid, which is checked. For nnU-Net, both sides read image and label map,
crop, z-score, resample both (orders 3 and 1) and find where labels are; nnU-Net runs in a child process, in an environment
that has nnunetv2: this one with the extra ``bench``, or the interpreter that ``MEDRAY_BENCH_PYTHON`` names. One figure is
what the machine itself needs at least: inflating the file and one pass over its voxels.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from isal import igzip
from monai.transforms import Compose, LoadImaged, NormalizeIntensityd, Orientationd, Spacingd
from report import bars, save

from medray.formats.nifti import read_nifti
from medray.imaging.geometry import RAS_TO_LPS, resampled_affine, resampled_shape, same_grid
from medray.preprocessing.bricks import BRICK, label_counts
from medray.preprocessing.foreground import cropped, foreground_box
from medray.preprocessing.resample import resample
from medray.preprocessing.resample_labels import resample_labels
from medray.samples.brain import write_brain_cohort
from medray.types import Shape, Triple

SPACING = (1.5, 1.5, 1.5)
SUBJECTS = 6
ROUNDS = 3


def main() -> None:
    """Run both sides and save the figures."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        root = write_brain_cohort(Path(place) / "source", subjects=SUBJECTS, formats=("nifti",))
        files = sorted(root.rglob("*_T1w.nii.gz"))
        results = {order: compare(files, order) for order in (3, 1)}
        floor = best(lambda: [physical_limit(file) for file in files]) / len(files)
        rival = compare_nnunet(files)
    rows = {f"order {order}": row for order, row in results.items()}
    save(
        "prepare",
        {"volumes": len(files), "spacing_mm": SPACING, "cores_a_side": 1, "physical_limit_s": floor, **rows, "nnunet": rival},
    )
    cubic, linear = results[3], results[1]
    bars(
        "prepare",
        f"decode + reorient + resample + normalise, one core, {len(files)} heads to 1.5 mm",
        {
            "MONAI, cubic": cubic["monai_s"],
            "medray, cubic": cubic["medray_s"],
            "MONAI, linear": linear["monai_s"],
            "medray, linear": linear["medray_s"],
            "nnU-Net, image and labels": rival["nnunet_s"],
            "medray, image and labels": rival["medray_s"],
            "limit: inflate + one pass": floor,
        },
        "seconds a volume",
    )


def compare(files: list[Path], order: int) -> dict[str, Any]:
    """Time both sides over all files, best of three rounds, and compare their voxels and grids."""
    work = [(file, *target(file)) for file in files]
    pipelines = [pipeline(spacing, order) for _, _, spacing in work]

    def monai_side() -> list[Any]:
        return [run({"image": str(file)})["image"] for run, file in zip(pipelines, files, strict=True)]

    def medray_sides() -> list[np.ndarray[Any, Any]]:
        return [medray_side(file, shape, order) for file, shape, _ in work]

    theirs, ours = monai_side(), medray_sides()
    for image, (file, shape, _) in zip(theirs, work, strict=True):
        upright = read_nifti(file.read_bytes()).reoriented()
        grid = resampled_affine(upright.affine, upright.shape, shape)
        if tuple(image.shape[1:]) != shape or not same_grid(grid, RAS_TO_LPS @ np.asarray(image.affine), shape, 1e-3):
            raise SystemExit(f"the two sides' grids differ for {file.name}: the comparison would mean nothing")
    differences = [np.abs(np.asarray(a) - b) for a, b in zip(theirs, ours, strict=True)]
    monai_s, medray_s = best(monai_side) / len(files), best(medray_sides) / len(files)
    return {
        "monai_s": monai_s,
        "medray_s": medray_s,
        "ratio": monai_s / medray_s,
        "max_abs_difference_sd": float(max(difference.max() for difference in differences)),
        "mean_abs_difference_sd": float(np.mean([difference.mean() for difference in differences])),
    }


def compare_nnunet(files: list[Path]) -> dict[str, Any]:
    """Time both sides on image and label map, and compare what they make."""
    pairs = [(file, next(file.parents[1].rglob(file.name.replace("_T1w", "_dseg")))) for file in files]
    python = os.environ.get("MEDRAY_BENCH_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory() as out:
        script = str(Path(__file__).with_name("nnunet_side.py"))
        words = [str(word) for pair in pairs for word in pair]
        command = [python, script, str(SPACING[0]), str(ROUNDS), out, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
        times, worst, agreeing = [], 0.0, []
        for number, (image, label) in enumerate(pairs):
            made = [timed(partial(image_and_labels, image, label)) for _ in range(ROUNDS)]
            times.append(min(seconds for seconds, _ in made))
            voxels, mask = made[-1][1]
            saved = np.load(Path(out) / f"case-{number}.npz")
            worst = max(worst, float(np.abs(voxels.transpose(2, 1, 0) - saved["data"]).max()))
            agreeing.append(float((mask.transpose(2, 1, 0) == np.maximum(saved["seg"], 0)).mean()))
    nnunet_s, medray_s = float(np.mean(theirs["seconds"])), float(np.mean(times))
    return {
        "nnunet_s": nnunet_s,
        "nnunet_fingerprint_s": float(np.mean(theirs["fingerprint_seconds"])),
        "medray_s": medray_s,
        "ratio": nnunet_s / medray_s,
        "max_abs_difference_sd": worst,
        "labels_agreeing": float(np.mean(agreeing)),
        "nnunetv2": theirs["nnunetv2"],
    }


def image_and_labels(image: Path, label: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Do with medray's functions what nnU-Net's ``run_case`` does; axes stay the file's own, as nnU-Net's do."""
    volume, mask = read_nifti(image.read_bytes()), read_nifti(label.read_bytes())
    box = foreground_box(volume)
    inner, labels = cropped(volume, box), cropped(mask, box)
    values = inner.voxels.astype(np.float32)
    flat = values.ravel(order="K")  # no copy: all passes run along memory
    flat -= flat.mean()
    deviation = max(float(np.sqrt(np.dot(flat, flat) / flat.size)), 1e-8)
    shape = resampled_shape(inner.shape, inner.spacing_mm, SPACING)
    voxels = resample(values, shape, order=3)[0]
    np.clip(voxels, flat.min(), flat.max(), out=voxels)  # as scikit-image's resize does, which nnU-Net calls
    voxels /= deviation  # interpolation is linear, so that scaling before and after are the same
    resampled = resample_labels(labels.voxels[0].astype(np.uint8, copy=False), shape)
    for corner in np.ndindex(*(-(-n // BRICK) for n in shape)):
        label_counts(resampled[tuple(slice(BRICK * at, BRICK * at + BRICK) for at in corner)], 4)
    return voxels, resampled


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def target(file: Path) -> tuple[Shape, Triple]:
    """Return the grid nearest to 1.5 mm that covers the volume's field of view exactly, along L, P, S."""
    upright = read_nifti(file.read_bytes()).reoriented()
    shape = resampled_shape(upright.shape, upright.spacing_mm, SPACING)
    i, j, k = (n * old / m for n, old, m in zip(upright.shape, upright.spacing_mm, shape, strict=True))
    return shape, (i, j, k)


def pipeline(spacing: Triple, order: int) -> Compose:
    """Return MONAI's dictionary transforms; float32, which is faster than its default float64."""
    mode = order if order > 1 else "bilinear"
    resampling = Spacingd("image", pixdim=spacing, mode=mode, padding_mode="border", scale_extent=True, dtype=np.float32)
    return Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", axcodes="LPS", labels=None),
            resampling,
            NormalizeIntensityd("image"),
        ]
    )


def medray_side(file: Path, shape: Shape, order: int) -> np.ndarray[Any, Any]:
    """Do the same with medray's functions."""
    upright = read_nifti(file.read_bytes()).reoriented()
    voxels = resample(upright.voxels, shape, order=order)
    voxels -= voxels.mean()
    voxels /= voxels.std()
    return voxels


def physical_limit(file: Path) -> float:
    """Inflate and read every voxel once: what no implementation can do without."""
    raw = igzip.decompress(file.read_bytes())
    return float(np.frombuffer(raw, np.int16, offset=352).sum())


def best(work: Callable[[], Any]) -> float:
    """Return the shortest of three rounds in seconds."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
