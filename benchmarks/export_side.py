"""One side of `benchmarks/export.py`: a map of classes on a coarse grid to a label map on a finer one.

Usage: export_side.py SIDE MAP SIZE OUT. SIDE: medray, monai, nnunet or nnunet-torch (where nnunetv2 is). Writes OUT.npy and
prints one JSON object: seconds of each round, and the peak of memory beyond what the map takes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peak import forget_peak, peak

ROUNDS = 3
CORES = 2
SPACING = 1.5
Export = Callable[[Any, int], Any]


def main() -> None:
    """Time a side."""
    side, source, size, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(CORES)
    export = SIDES[side](size)
    channels = np.load(source)
    before, seconds, labels = forget_peak(), [], None
    try:
        for _ in range(ROUNDS):
            given = channels.copy() if side == "nnunet-torch" else channels  # it may write where it reads
            started = time.perf_counter()
            labels = export(given, size)
            seconds.append(time.perf_counter() - started)
            if seconds[0] > 60:
                break
    except Exception as error:  # noqa: BLE001 - that a side can't is a result
        print(json.dumps({"failed": f"{type(error).__name__}: {str(error)[:200]}", "peak_mib": peak() - before}))
        return
    np.save(out, np.asarray(labels, np.uint8))
    print(json.dumps({"seconds": seconds, "peak_mib": peak() - before}))


def medray(size: int) -> Export:
    """`argmax_resampled`."""
    from medray.preprocessing.resample_argmax import argmax_resampled

    return lambda channels, size: argmax_resampled(channels, (size,) * 3)


def monai(size: int) -> Export:
    """`Invertd` of a `Spacingd`, then `AsDiscreted`, as MONAI's bundles end."""
    from monai.data import MetaTensor
    from monai.transforms import AsDiscreted, Compose, Invertd, Spacingd

    spacing = Spacingd(keys="image", pixdim=(SPACING,) * 3, mode="bilinear")
    start = np.diag([*[170 * SPACING / size] * 3, 1.0])
    image = {"image": MetaTensor(torch.zeros(1, size, size, size), affine=torch.from_numpy(start))}
    done = spacing(image)
    post = Compose(
        [
            Invertd(keys="pred", transform=spacing, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted(keys="pred", argmax=True),
        ]
    )

    def export(channels: Any, size: int) -> Any:
        there = done["image"]
        fitted = torch.from_numpy(channels)[:, : there.shape[1], : there.shape[2], : there.shape[3]]
        return post({**done, "pred": MetaTensor(fitted, affine=there.affine)})["pred"][0].numpy()

    return export


def nnunet(size: int, *, fast: bool = False) -> Export:
    """`convert_predicted_logits_to_segmentation_with_correct_shape`, with its default resampling or its torch variant."""
    from nnunet_side import plans_for
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape as convert
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = plans_for(SPACING).plans
    if fast:
        resampling = plans["configurations"]["3d_fullres"]
        resampling["resampling_fn_probabilities"] = "resample_torch_fornnunet"
        resampling["resampling_fn_probabilities_kwargs"] = {
            "is_seg": False,
            "force_separate_z": False,
            "memefficient_seg_resampling": False,
        }
    managed = PlansManager(plans)
    shape = (size,) * 3
    facts = {
        "spacing": [170 * SPACING / size] * 3,
        "shape_after_cropping_and_before_resampling": shape,
        "shape_before_cropping": shape,
        "bbox_used_for_cropping": [[0, size]] * 3,
    }

    def export(channels: Any, size: int) -> Any:
        names = {"background": 0, **{f"label-{number}": number for number in range(1, len(channels))}}
        labels = managed.get_label_manager({"labels": names, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"})
        given = torch.from_numpy(channels) if fast else channels
        return convert(given, managed, managed.get_configuration("3d_fullres"), labels, facts, num_threads_torch=CORES)

    return export


SIDES: dict[str, Callable[[int], Export]] = {
    "medray": medray,
    "monai": monai,
    "nnunet": nnunet,
    "nnunet-torch": lambda size: nnunet(size, fast=True),
}

if __name__ == "__main__":
    main()
