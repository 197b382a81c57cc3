"""How fast is preparation, against MONAI's dictionary transforms on the same files, target grid and order?

Both sides decode a .nii.gz, reorient to LPS, resample by cubic splines to the same grid, and z-score over all voxels; one core
each, in one process, in turn. The target grid is MONAI's own: its output shape and affine, so that voxels compare one to one.
A column gives what the machine itself needs at least: inflating the file and one pass over its voxels.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from isal import igzip
from monai.transforms import Compose, LoadImaged, NormalizeIntensityd, Orientationd, Spacingd
from report import bars, save

from medray.formats.nifti import read_nifti
from medray.preprocessing.resample import resample
from medray.samples.brain import write_brain_cohort

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
    rows = {f"order {order}": row for order, row in results.items()}
    save("prepare", {"volumes": len(files), "spacing_mm": SPACING, "cores_a_side": 1, "physical_limit_s": floor, **rows})
    cubic, linear = results[3], results[1]
    bars(
        "prepare",
        f"decode + reorient + resample + normalise, one core, {len(files)} heads to 1.5 mm",
        {
            "MONAI, cubic": cubic["monai_s"],
            "medray, cubic": cubic["medray_s"],
            "MONAI, linear": linear["monai_s"],
            "medray, linear": linear["medray_s"],
            "limit: inflate + one pass": floor,
        },
        "seconds a volume",
    )


def compare(files: list[Path], order: int) -> dict[str, Any]:
    """Time both sides over all files, best of three rounds, and compare their voxels."""
    pipeline = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", axcodes="LPS", labels=None),
            Spacingd(
                "image", pixdim=SPACING, mode=order if order > 1 else "bilinear", padding_mode="border", align_corners=False
            ),
            NormalizeIntensityd("image"),
        ]
    )
    theirs = [np.asarray(pipeline({"image": str(file)})["image"]) for file in files]
    shapes = [tuple(int(n) for n in image.shape[1:]) for image in theirs]
    ours = [medray_side(file, shape, order) for file, shape in zip(files, shapes, strict=True)]
    monai_s = best(lambda: [pipeline({"image": str(file)}) for file in files]) / len(files)
    medray_s = best(lambda: [medray_side(file, shape, order) for file, shape in zip(files, shapes, strict=True)]) / len(files)
    inner = [np.abs(a - b)[:, 3:-3, 3:-3, 3:-3] for a, b in zip(theirs, ours, strict=True)]
    return {
        "monai_s": monai_s,
        "medray_s": medray_s,
        "ratio": monai_s / medray_s,
        "max_abs_difference_sd": float(max(diff.max() for diff in inner)),
        "mean_abs_difference_sd": float(np.mean([diff.mean() for diff in inner])),
    }


def medray_side(file: Path, shape: tuple[int, ...], order: int) -> np.ndarray[Any, Any]:
    """Do the same with medray's functions."""
    upright = read_nifti(file.read_bytes()).reoriented()
    voxels = resample(upright.voxels, (shape[0], shape[1], shape[2]), order=order)
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
