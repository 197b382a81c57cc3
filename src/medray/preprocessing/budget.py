"""How large a training step may be: the memory at hand decides patch and batch, and with them how deep a network can be.

In the spirit of nnU-Net's planner (Isensee et al., Nature Methods 18 (2021) 203-211), with an estimate from the network's own
tensors. On CPUs a step's time is the limit long before its memory is.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medray.models.spec import NetworkSpec
from medray.types import Shape

__all__ = ["PATCH", "Memory", "Room", "machine_memory", "memory_at_hand", "room_for", "step_gb"]

USABLE = 0.7
"""Of a GPU's memory: the rest is its context, the allocator's fragments and cuDNN's workspace."""
SHARE_OF_RAM = 0.25
"""Of a machine's memory for one worker's step: others work beside it, and Ray's object store takes a third."""
TENSORS = {"unet": 7, "dynunet": 10, "segresnet": 12}
"""Tensors as large as a depth's output that a step keeps for its way back: counted in `tests/preprocessing/test_budget.py`."""
BYTES = 2
"""Of a value: activations are bfloat16."""
GRADIENTS = 1.5
"""What the way back adds at its peak."""
WEIGHTS = 4 * 4
"""Bytes of a weight: itself, its gradient and AdamW's two moments."""
PATCH, LEAST_SIDE = 64, 16
LARGEST_BATCH = 8
GPU_VOXELS = 192**3
"""A patch needs no more: beyond it more patches a step teach more than larger ones."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one worker has.

    Attributes:
        gb: Gigabytes (10⁹ bytes) of the GPU or, without one, of the machine.
        gpu: Whether it is a GPU's.
    """

    gb: float
    gpu: bool = False

    @property
    def for_a_step(self) -> float:
        """Gigabytes that a training step may take."""
        return self.gb * (USABLE if self.gpu else SHARE_OF_RAM)


@dataclass(frozen=True, slots=True)
class Room:
    """What fits.

    Attributes:
        patch: Voxels along L, P, S.
        batch: Patches a step.
        why_patch: The reason.
        why_batch: The reason.
    """

    patch: Shape
    batch: int
    why_patch: str
    why_batch: str


def memory_at_hand() -> Memory:
    """Return the first GPU's memory, or the machine's."""
    program = shutil.which("nvidia-smi")
    if program:
        asked = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - no words of others
        first = said.stdout.strip().splitlines()[:1]
        if said.returncode == 0 and first and first[0].strip().isdigit():
            return Memory(int(first[0]) * 2**20 / 1e9, gpu=True)
    return machine_memory()


def machine_memory() -> Memory:
    """Return the machine's memory, whatever GPU it has."""
    return Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def step_gb(spec: NetworkSpec, patch: Shape, batch: int) -> float:
    """Estimate the gigabytes of a training step of a network of convolutions: activations, their gradients, weights."""
    dims = 2 if patch[2] == 1 else 3
    first = 1 if spec.name == "unet" else 0  # this one's finest depth is strided already
    voxels = [math.prod(patch) / 2 ** (dims * (depth + first)) for depth in range(len(spec.features))]
    kept = sum(count * width for count, width in zip(voxels, spec.features, strict=True)) * TENSORS[spec.name]
    ends = math.prod(patch) * 8  # the image, its answer in float32 and what the loss makes of it
    wide = [*spec.features, spec.features[-1]]
    weights = sum(3**dims * (a * a + a * b) for a, b in pairwise(wide))
    return float(batch * (kept * BYTES * GRADIENTS + ends * 4) + weights * WEIGHTS) / 1e9


def room_for(spec: NetworkSpec, memory: Memory, image: Sequence[float], *, batch: int = 2, patch: Shape | None = None) -> Room:
    """Choose patch and batch for volumes.

    Args:
        spec: The network; of those that aren't made of convolutions the patch is what a CPU gets.
        memory: What there is.
        image: Voxels of the cohort's median image along L, P, S, at the plan's spacing.
        batch: At least so many patches a step.
        patch: If it is set already.
    """
    divisor = spec.divisor
    known = spec.name in TENSORS
    if patch is None and memory.gpu and known:
        patch = _largest(spec, memory, image, batch)
        why = f"as much of the median image as {memory.for_a_step:.0f} GB of GPU memory hold, {batch} at a time"
    elif patch is None:
        side = -(-PATCH // divisor) * divisor
        why = f"{side} voxels a side hold the network's field of view; on CPUs a step's time is the limit"
        while known and side > max(LEAST_SIDE, divisor) and step_gb(spec, (side,) * 3, batch) > memory.for_a_step:
            side -= divisor
            why = f"{side} voxels a side are what {memory.for_a_step:.1f} GB hold"
        patch = (side, side, side)
    else:
        why = "set by hand"
    if not (memory.gpu and known):
        return Room(patch, batch, why, "two patches make batch norm's statistics; more cost CPUs time and teach little more")
    more = batch
    while more < LARGEST_BATCH and step_gb(spec, patch, more + 1) <= memory.for_a_step:
        more += 1
    return Room(patch, more, why, f"patches of {step_gb(spec, patch, 1):.1f} GB, as many as fit, at most {LARGEST_BATCH}")


def _largest(spec: NetworkSpec, memory: Memory, image: Sequence[float], batch: int) -> Shape:
    """Start from the median image, and take from the side that is longest for the image until it fits."""
    divisor = spec.divisor
    sides = np.array([max(divisor, round(side / divisor) * divisor) for side in image])
    shape = np.array(image, float)
    while True:
        patch = (int(sides[0]), int(sides[1]), int(sides[2]))
        if math.prod(patch) <= GPU_VOXELS and step_gb(spec, patch, batch) <= memory.for_a_step:
            return patch
        can = sides > divisor
        if not can.any():
            return patch
        sides[int(np.argmax(np.where(can, sides / shape, 0)))] -= divisor
