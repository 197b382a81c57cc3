"""Part of `benchmarks/export.py`: one prediction of 117 classes on 512 voxels a side: seconds, and memory beyond the input.

Usage: export_whole.py KIND. ``regions``: the image shows 116 regions by their intensity, and a network that is one convolution
tells them apart. ``noise``: the image is noise and the network an untrained UNet, which says something else at each voxel: the
worst that can be. What counts is how much of what a network says lies in memory at a time.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from peak import forget_peak, peak
from torch import nn

from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.inference.predictor import Predictor
from medray.models.networks import build_model
from medray.models.spec import NetworkSpec
from medray.preprocessing.intensity import Intensity
from medray.preprocessing.plan import Plan
from medray.types import Voxels

CLASSES, SIDE, SOURCE_MM, PLAN_MM, PATCH = 117, 512, 0.75, 1.5, 96


def main() -> None:
    """Predict once."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    regions = sys.argv[1] == "regions"
    names = {f"label-{number}": number for number in range(1, CLASSES)}
    plan = Plan(
        task="segmentation", labels=LabelSchema(names), targets=tuple(names), cohort="none", modalities=("CT",),
        spacing_mm=(PLAN_MM,) * 3, intensity=Intensity(method="window-zscore"), patch=(PATCH,) * 3,
        target_weights=(1.0,) * CLASSES, crop=False, network=NetworkSpec(features=(8, 16, 32)),
    )  # fmt: skip
    model = nearest_class() if regions else build_model(plan.network, 1, CLASSES, plan.patch)
    predictor = Predictor(model.eval(), plan, torch.device("cpu"))
    voxels = rounded_regions() if regions else np.random.default_rng(0).integers(-1000, 1000, (SIDE,) * 3, np.int16)
    volume = Volume(voxels[np.newaxis], np.diag([SOURCE_MM] * 3 + [1.0]))
    predictor.probe()
    before, started = forget_peak(), time.perf_counter()
    found = predictor.predict(volume)
    facts = {"seconds": time.perf_counter() - started, "stages": dict(found.latencies), "peak_gib": (peak() - before) / 1024}
    full = CLASSES * SIDE**3 * 4 / 2**30
    print(json.dumps({**facts, "whole_map_at_full_resolution_gib": full, "labels": len(np.unique(found.mask.voxels))}))


def rounded_regions() -> Voxels:
    """Return an image in which each of 116 regions has its own intensity."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.arange(SIDE, dtype=np.float32)] * 3, indexing="ij", sparse=True)
    voxels = np.zeros((SIDE,) * 3, np.int16)
    for number in range(1, CLASSES):
        centre, radius = rng.uniform(0, SIDE, 3), rng.uniform(20, 70)
        voxels[sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True)) < radius**2] = number * 10
    return voxels


def nearest_class() -> nn.Module:
    """Return a network whose largest answer is that of the class whose intensity is nearest."""
    network = nn.Conv3d(1, CLASSES, kernel_size=1)
    classes = torch.arange(CLASSES, dtype=torch.float32) * 10
    with torch.no_grad():
        network.weight.copy_((0.1 * classes)[:, None, None, None, None])
        network.bias.copy_(-0.05 * classes**2)  # type: ignore[union-attr]
    return network


if __name__ == "__main__":
    main()
