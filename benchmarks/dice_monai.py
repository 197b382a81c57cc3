"""The MONAI side of `benchmarks/time_to_dice.py`: CacheDataset, DataLoader, a residual U-Net, as in MONAI's own tutorials.

Usage: dice_monai.py FOLDER OUT STARTED.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet, UNet
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ResampleToMatch,
    Spacingd,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SETTINGS: dict[str, Any] = {
    "network": "unet",
    "spacing_mm": 1.5,
    "patch": [64, 64, 64],
    "patches": 4,
    "channels": 16,
    "learning_rate": 2e-3,
    "epochs": 60,
    "every": 3,
    "processes": 0,
}
if DEVICE.type == "cuda":  # nnU-Net's network, patch and batch; processes of its own for the transforms
    SETTINGS |= {"network": "dynunet", "spacing_mm": 1.0, "patch": [128, 128, 128], "patches": 2, "epochs": 50, "every": 5}
    SETTINGS |= {"learning_rate": 1e-3, "processes": 8}
SETTINGS |= json.loads(os.environ.get("BENCH_MONAI", "{}"))
PATCH = tuple(SETTINGS["patch"])
DEEP = (32, 64, 128, 256, 320, 320)
"""nnU-Net's channels."""


def main(folder: Path, out: Path, started: float) -> None:
    """Train, saving weights as it goes, then predict with each of them."""
    torch.manual_seed(0)
    split = json.loads((folder / "split.json").read_text())
    files = {name: [pair(folder, subject) for subject in split if split[subject] == name] for name in ("train", "val")}
    train = CacheDataset(files["train"], Compose([*fixed(), *random()]), num_workers=2, progress=False)
    processes = SETTINGS["processes"]
    loader = DataLoader(train, batch_size=1, shuffle=True, num_workers=processes, persistent_workers=processes > 0)
    cached = time.time() - started
    network = build().to(DEVICE)
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimizer = torch.optim.AdamW(network.parameters(), SETTINGS["learning_rate"])
    total = SETTINGS["epochs"] * len(loader)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=total, power=0.9)
    saved, paces = [], []
    for epoch in range(SETTINGS["epochs"]):
        network.train()
        began = time.perf_counter()
        for batch in loader:
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
                outputs = network(batch["image"].to(DEVICE))
            loss(outputs.float(), batch["label"].to(DEVICE)).backward()
            optimizer.step()
            schedule.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        paces.append(len(loader) * SETTINGS["patches"] * math.prod(PATCH) / (time.perf_counter() - began))
        if (epoch + 1) % SETTINGS["every"] == 0:
            torch.save(network.state_dict(), out / f"{epoch}.pt")
            saved.append((time.time() - started, out / f"{epoch}.pt"))
    marks = []
    for seconds, weights in saved:
        network.load_state_dict(torch.load(weights, weights_only=True))
        predict(network.eval(), files["val"], masks := out / weights.stem)
        marks.append({"seconds": seconds, "masks": str(masks)})
    about = {"device": DEVICE.type, "voxels_per_second": statistics.median(paces), "cached_s": cached}
    print(json.dumps({"settings": SETTINGS, **about, "marks": marks}))


def build() -> torch.nn.Module:
    """Make the network."""
    if SETTINGS["network"] == "dynunet":
        depths = len(DEEP)
        kernels, strides = [3] * depths, [1] + [2] * (depths - 1)
        deep: torch.nn.Module = DynUNet(3, 1, 3, kernels, strides, strides[1:], filters=DEEP)
        return deep
    channels = [SETTINGS["channels"] * 2**depth for depth in range(4)]
    network: torch.nn.Module = UNet(3, 1, 3, channels=channels, strides=[2, 2, 2], num_res_units=2, norm="batch")
    return network


def pair(folder: Path, subject: str) -> dict[str, str]:
    """Name a subject's image and label map."""
    place = folder / "source" / subject
    return {"image": str(next(place.rglob("*_T1w.nii.gz"))), "label": str(next(place.rglob("*_dseg.nii.gz"))), "name": subject}


def fixed(keys: tuple[str, ...] = ("image", "label")) -> list[Any]:
    """What the cache holds; lesions count as background, as for the other sides."""
    modes = {"image": "bilinear", "label": "nearest"}
    steps = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS", labels=None),
        Spacingd(keys, pixdim=(SETTINGS["spacing_mm"],) * 3, mode=[modes[key] for key in keys]),
        NormalizeIntensityd("image", nonzero=True),
    ]
    if "label" in keys:
        steps.append(Lambdad("label", lambda label: torch.where(label > 2, 0, label)))
        steps.append(CropForegroundd(keys, source_key="image", allow_smaller=True))
    return steps


def random() -> list[Any]:
    """What is drawn anew."""
    keys = ("image", "label")
    return [
        RandCropByPosNegLabeld(keys, label_key="label", spatial_size=PATCH, pos=1, neg=1, num_samples=SETTINGS["patches"]),
        *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
        RandScaleIntensityd("image", factors=0.1, prob=0.5),
        RandShiftIntensityd("image", offsets=0.1, prob=0.5),
    ]


def predict(network: torch.nn.Module, files: list[dict[str, str]], masks: Path) -> None:
    """Write label maps on the scans' own grids: probabilities are resampled, then the largest is taken."""
    masks.mkdir()
    prepare = Compose(fixed(("image",)))
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    for file in files:
        image, source = prepare(file)["image"], load(file)["image"]
        with torch.inference_mode():
            logits = sliding_window_inference(image[None].to(DEVICE), PATCH, 2, network, overlap=0.25, mode="gaussian")[0].cpu()
        answer = MetaTensor(logits.softmax(dim=0), affine=image.affine)
        onto = ResampleToMatch(mode="bilinear")(answer, img_dst=source)
        label = nibabel.Nifti1Image(onto.argmax(dim=0).to(torch.uint8).numpy(), source.affine.numpy())
        nibabel.save(label, masks / f"{file['name']}.nii.gz")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
