import math
import re

import pytest
import torch

from medray.models.networks import build_model
from medray.models.spec import FEATURES, NetworkSpec
from medray.preprocessing.budget import BYTES, TENSORS, Memory, machine_memory, memory_at_hand, room_for, step_gb

DEEP = NetworkSpec(name="dynunet", features=(32, 64, 128, 256, 320, 320))
HEAD = (180.0, 210.0, 180.0)


@pytest.mark.parametrize("name", TENSORS)
def test_the_estimate_is_what_autograd_keeps(name):
    spec, side = NetworkSpec(name=name, features=FEATURES[name]), 64
    network = build_model(spec, 1, 3, (side,) * 3).train()
    weights = {weight.data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor):
        alive.append(tensor)  # a freed address would be counted once for two
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
        network(torch.rand(1, 1, side, side, side)).float().sum()
    count = sum(weight.numel() for weight in network.parameters())
    first = int(name == "unet")
    outputs = sum(side**3 / 8 ** (depth + first) * width for depth, width in enumerate(spec.features))
    assert (sum(kept.values()) - count * 2) / BYTES / outputs == pytest.approx(TENSORS[name], rel=0.15)


def test_cpus_get_small_patches_whatever_the_memory():
    room = room_for(NetworkSpec(), Memory(512), HEAD)
    assert room.patch == (64, 64, 64)
    assert room.batch == 2
    assert "time" in room.why_patch
    tight = room_for(NetworkSpec(name="dynunet"), Memory(2), HEAD)
    assert tight.patch[0] < 64
    assert "0.5 GB" in tight.why_patch


@pytest.mark.parametrize("gb", [8, 11, 24, 48, 80, 141])
def test_a_gpu_is_filled_and_never_over(gb):
    memory = Memory(gb, gpu=True)
    room = room_for(DEEP, memory, HEAD)
    assert all(side % DEEP.divisor == 0 for side in room.patch)
    used = step_gb(DEEP, room.patch, room.batch)
    assert used <= memory.for_a_step
    assert room.batch == 8 or used > 0.5 * memory.for_a_step
    assert math.prod(room.patch) >= math.prod(room_for(DEEP, Memory(gb / 2, gpu=True), HEAD).patch)


def test_a_flat_image_gets_a_flat_patch():
    room = room_for(NetworkSpec(name="dynunet"), Memory(11, gpu=True), (320.0, 320.0, 24.0))
    assert room.patch[2] == 24
    assert room.patch[0] == room.patch[1] > 100


def test_what_is_set_by_hand_stays():
    room = room_for(DEEP, Memory(80, gpu=True), HEAD, patch=(64, 64, 64))
    assert room.patch == (64, 64, 64)
    assert room.batch == 8


def test_a_machine_has_some_memory():
    assert 0.5 < machine_memory().gb < 1e5
    assert memory_at_hand().gb > 0.5
    assert re.fullmatch(r"(True|False)", str(memory_at_hand().gpu))
