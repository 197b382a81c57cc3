"""What do memory format and compilation gain on a GPU, and does a step take the memory that its plan says?

The network, patch and batch that a GPU of 8 GB gets for heads, MONAI's Dice and cross-entropy loss, bfloat16, random images,
no loading: first as a MONAI loop runs it, then channels last, then compiled, as medray does. Each step is waited for.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from monai.losses import DiceCELoss
from report import bars, save

from medray.models.networks import build_model
from medray.models.spec import NetworkSpec
from medray.preprocessing.budget import Memory, Room, room_for, step_gb
from medray.preprocessing.planning import DEEP

SPEC = NetworkSpec(name="dynunet", features=DEEP)
HEAD = (146, 175, 138)
"""Voxels of one."""
GB = 8
STEPS, WARM = 16, 4
SIDES = {
    "eager, as MONAI's loops are": {"last": False, "compiled": False},
    "eager, channels last": {"last": True, "compiled": False},
    "compiled": {"last": False, "compiled": True},
    "medray: compiled, channels last": {"last": True, "compiled": True},
}


def main() -> None:
    """Time each side."""
    if not torch.cuda.is_available():
        print("not run: no GPU", file=sys.stderr)
        return
    torch.backends.cudnn.benchmark = True
    room = room_for(SPEC, Memory(GB, gpu=True), HEAD)
    sides = {name: run(room, **settings) for name, settings in SIDES.items()}
    first, last = (sides[name]["step_ms"] for name in (next(iter(SIDES)), next(reversed(SIDES))))
    facts = {
        "gpu": torch.cuda.get_device_name(),
        "patch": room.patch,
        "batch": room.batch,
        "estimate_gb": step_gb(SPEC, room.patch, room.batch),
    }
    save("gpu_step", {**facts, "sides": sides, "ratio": first / last})
    title = f"a step on one {facts['gpu']}: {room.batch} patches of {' × '.join(map(str, room.patch))}"
    bars("gpu_step", title, {name: side["step_ms"] for name, side in sides.items()}, "milliseconds, median")


def run(room: Room, *, last: bool, compiled: bool) -> dict[str, Any]:
    """Train some steps; return the median one's milliseconds, the first one's seconds and the most memory taken."""
    torch.manual_seed(0)
    torch.cuda.reset_peak_memory_stats()
    form = torch.channels_last_3d if last else torch.contiguous_format
    model: Any = build_model(SPEC, 1, 3, room.patch).cuda()
    model = model.to(memory_format=form)
    network: Any = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    image = torch.randn(room.batch, 1, *room.patch, device="cuda").contiguous(memory_format=form)
    label = torch.randint(0, 3, (room.batch, 1, *room.patch), device="cuda")
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            outputs = network(image)
        loss_of(outputs.float(), label).backward()
        optimizer.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 1e9
    return {"step_ms": statistics.median(seconds[WARM:]) * 1000, "first_s": seconds[0], "peak_gb": peak}


if __name__ == "__main__":
    main()
