"""The nnU-Net side of `benchmarks/time_to_dice.py`: nnU-Net v2 with epochs of 25 steps; on CPU by its 1 GB plan.

Usage: dice_nnunet.py FOLDER OUT STARTED, in an environment that has nnunetv2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER, OUT, STARTED = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
for kind in ("raw", "preprocessed", "results"):
    os.environ[f"nnUNet_{kind}"] = str(OUT / kind)

import json
import math
import shutil
import statistics
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import SimpleITK
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["nnUNet_n_proc_DA"] = "1"  # noqa: SIM112 - nnU-Net's own name; beside a GPU it takes the number that it likes
DATASET, STEPS, EPOCHS = "Dataset001_Brain", 25, int(os.environ.get("BENCH_NNUNET_EPOCHS", "60"))
PROCESSES = 2 if DEVICE.type == "cpu" else 8
EVERY = max(1, EPOCHS // (12 if DEVICE.type == "cpu" else 4))


class Short(nnUNetTrainer):  # type: ignore[misc]
    """Short epochs, a checkpoint now and then. nnU-Net looks its arguments up by the names that they have here."""

    def __init__(self, plans: Any, configuration: str, fold: int, dataset_json: Any, device: torch.device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = EPOCHS, STEPS, 1
        self.saved: list[tuple[float, str]] = []

    def on_epoch_end(self) -> None:
        """Save, and note when."""
        epoch = self.current_epoch
        super().on_epoch_end()
        if (epoch + 1) % EVERY == 0:
            name = f"checkpoint_{epoch}.pth"
            self.save_checkpoint(str(Path(self.output_folder) / name))
            self.saved.append((time.time() - STARTED, name))


def main() -> None:
    """Preprocess, train, predict."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    split = json.loads((FOLDER / "split.json").read_text())
    names = {side: [subject for subject in split if split[subject] == side] for side in ("train", "val")}
    raw = OUT / "raw" / DATASET
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir(parents=True)
    for subject in (*names["train"], *names["val"]):
        place = FOLDER / "source" / subject
        shutil.copy(next(place.rglob("*_T1w.nii.gz")), raw / "imagesTr" / f"{subject}_0000.nii.gz")
        label = SimpleITK.ReadImage(str(next(place.rglob("*_dseg.nii.gz"))))
        values = SimpleITK.GetArrayFromImage(label)
        tissues = SimpleITK.GetImageFromArray(np.where(values > 2, 0, values).astype(np.uint8))
        tissues.CopyInformation(label)
        SimpleITK.WriteImage(tissues, str(raw / "labelsTr" / f"{subject}.nii.gz"))
    labels = {"background": 0, "grey-matter": 1, "white-matter": 2}
    count = len(names["train"]) + len(names["val"])
    facts = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": count, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(facts))
    extract_fingerprints([1], num_processes=PROCESSES, show_progress_bar=False, verbose=False)
    plan_experiments([1], gpu_memory_target_in_gb=1 if DEVICE.type == "cpu" else 8)
    preprocess([1], configurations=["3d_fullres"], num_processes=[PROCESSES], show_progress_bar=False)
    prepared = time.time() - STARTED
    place = OUT / "preprocessed" / DATASET
    (place / "splits_final.json").write_text(json.dumps([names]))
    plans = json.loads((place / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    trainer = Short(plans, "3d_fullres", 0, json.loads((place / "dataset.json").read_text()), DEVICE)
    trainer.run_training()
    marks = []
    for seconds, name in trainer.saved:
        masks = OUT / name.removesuffix(".pth")
        predict(trainer, name, names["val"], masks)
        marks.append({"seconds": seconds, "masks": str(masks)})
    configuration = plans["configurations"]["3d_fullres"]
    about = {key: configuration[key] for key in ("spacing", "patch_size", "batch_size")}
    begun, ended = (trainer.logger.get_value(f"epoch_{end}_timestamps", step=None) for end in ("start", "end"))
    seconds_of = [last - first for first, last in zip(begun, ended, strict=True)]
    voxels = STEPS * configuration["batch_size"] * math.prod(configuration["patch_size"])
    pace = {"device": DEVICE.type, "voxels_per_second": voxels / statistics.median(seconds_of)}
    facts = {"nnunetv2": version("nnunetv2"), "plan": about, "prepared_s": prepared, "steps": STEPS, **pace}
    print(json.dumps({**facts, "marks": marks}))


def predict(trainer: Short, checkpoint: str, subjects: list[str], masks: Path) -> None:
    """Predict the validation scans, without mirroring, as the other sides do."""
    masks.mkdir()
    weights = torch.load(Path(trainer.output_folder) / checkpoint, map_location="cpu", weights_only=False)["network_weights"]
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=False, device=DEVICE, perform_everything_on_device=False)
    managers = trainer.plans_manager, trainer.configuration_manager
    predictor.manual_initialization(trainer.network, *managers, [weights], trainer.dataset_json, "Short", None)
    images = [[str(OUT / "raw" / DATASET / "imagesTr" / f"{subject}_0000.nii.gz")] for subject in subjects]
    predictor.predict_from_files(images, [str(masks / subject) for subject in subjects], num_processes_preprocessing=1,
                                 num_processes_segmentation_export=1)  # fmt: skip


if __name__ == "__main__":
    main()
