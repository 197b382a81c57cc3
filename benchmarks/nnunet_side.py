"""nnU-Net v2's own preprocessor on some cases; `benchmarks/prepare.py` runs this in an environment that has nnunetv2.

Usage: nnunet_side.py SPACING ROUNDS OUT IMAGE LABEL [IMAGE LABEL …]. Writes OUT/case-N.npz and prints one JSON object.
"""

from __future__ import annotations

import os

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
os.environ.update(dict.fromkeys(ONE_THREAD, "1"))

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def plans_for(spacing: float) -> Any:
    """Return the least that the preprocessor asks of a plans file, with the default planner's resampling."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    resampling: dict[str, Any] = {}
    for kind, label, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1)):
        resampling[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{kind}_kwargs"] = {"is_seg": label, "order": order, "order_z": 0, "force_separate_z": None}
    configuration = {
        "architecture": {},
        "spacing": [spacing] * 3,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **resampling,
    }
    return PlansManager(
        {
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "foreground_intensity_properties_per_channel": {"0": {}},
            "configurations": {"3d_fullres": configuration},
        }
    )


def main() -> None:
    """Time run_case and the fingerprint of each case, best of some rounds."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    torch.set_num_threads(1)
    spacing, rounds, out, *files = float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]
    plans = plans_for(spacing)
    configuration = plans.get_configuration("3d_fullres")
    worker, seconds, fingerprints = DefaultPreprocessor(verbose=False), [], []
    for number, (image, label) in enumerate(zip(files[::2], files[1::2], strict=True)):
        values = int(SimpleITKIO().read_seg(label)[0].max())
        labels = {"background": 0, **{f"l{value}": value for value in range(1, values + 1)}}
        dataset = {"channel_names": {"0": "T1"}, "file_ending": ".nii.gz", "labels": labels}
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            data, seg, _ = worker.run_case([image], label, plans, configuration, dataset)
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
        DatasetFingerprintExtractor.analyze_case([image], label, SimpleITKIO, int(1e8 // (len(files) // 2)))
        fingerprints.append(time.perf_counter() - started)
        seconds.append(min(times))
        np.savez(out / f"case-{number}.npz", data=data[0], seg=seg[0])
    print(json.dumps({"seconds": seconds, "fingerprint_seconds": fingerprints, "nnunetv2": version("nnunetv2")}))


if __name__ == "__main__":
    main()
