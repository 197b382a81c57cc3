"""What runs networks."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from medray.errors import ConfigError
from medray.models import runtime
from medray.models.networks import build_model
from medray.models.runtime import Runtime, ready_to_run
from medray.models.spec import FEATURES, NetworkSpec

CPU = torch.device("cpu")
OPENVINO = Runtime("openvino", threads=1)


def network(name="unet", patch=(32, 32, 32), **said):
    torch.manual_seed(0)
    return build_model(NetworkSpec(name=name, features=FEATURES[name], **said), 1, 3, patch).eval()


def run(by, images):
    with torch.inference_mode():
        return by(images)


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet", "unetr", "swinunetr", "resnet", "densenet", "vit"])
def test_openvino_says_what_torch_says(name, caplog):
    built = network(name)
    by = ready_to_run(OPENVINO, built, CPU, (1, 32, 32, 32))
    assert not caplog.records
    images = torch.randn(2, 1, 32, 32, 32)
    truth = ready_to_run(Runtime(), built, CPU, (1, 32, 32, 32))(images)
    assert torch.allclose(run(by, images), truth, atol=1e-4 * float(truth.abs().max()))


def test_pictures_that_come_together_are_each_answered():
    torch.manual_seed(0)
    built = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    by = ready_to_run(Runtime("openvino", threads=2), built, CPU, (1, 32, 32))
    images = torch.randn(7, 1, 32, 32)
    assert torch.allclose(run(by, images), built(images), atol=1e-5)


def test_a_network_for_any_size_runs_on_any_size():
    built, asked = network(), []
    by = ready_to_run(OPENVINO, built, CPU, (1, 32, 32, 32), divisor=8)
    built.register_forward_hook(lambda *_: asked.append(1))
    images = torch.randn(1, 1, 48, 32, 40)
    found = run(by, images)
    assert not asked
    assert torch.allclose(found, built(images), atol=1e-4)


def test_what_it_was_not_prepared_for_stays_with_torch():
    built, asked = network(), []
    by = ready_to_run(OPENVINO, built, CPU, (1, 32, 32, 32))
    built.register_forward_hook(lambda *_: asked.append(1))
    images = torch.randn(1, 1, 48, 32, 32)
    assert torch.equal(run(by, images), built(images))
    assert len(asked) == 2


class Random(nn.Module):
    """Says something else each time."""

    def forward(self, images):
        return images + torch.rand_like(images)


class Twice(nn.Module):
    """Has two answers."""

    def forward(self, images):
        return images, images + 1


class Branching(nn.Module):
    """Does what its image says, which a trace can't see."""

    def forward(self, images):
        return images * (2 if float(images.sum()) > 1 else -3)


@pytest.mark.parametrize("kind", [Random, Twice, Branching])
def test_a_network_that_openvino_can_t_take_stays_with_torch(kind, caplog):
    by = ready_to_run(OPENVINO, kind(), CPU, (1, 8, 8))
    assert "stays with torch" in caplog.text
    images = torch.ones(1, 1, 8, 8)
    assert type(by(images)) is type(kind()(images))


def test_bfloat16_is_near():
    images = torch.randn(2, 1, 32, 32, 32)
    built = network()
    truth = built(images).detach()
    for name in ("torch", "openvino"):
        by = ready_to_run(Runtime(name, mixed=True, threads=1), built, CPU, (1, 32, 32, 32))
        assert torch.allclose(run(by, images).float(), truth, atol=0.1 * float(truth.abs().max()))


def test_a_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .medray\[openvino\]"):
        ready_to_run(OPENVINO, network(), CPU, (1, 32, 32, 32))


def test_nobody_is_told():
    code = """
import sys, torch
from medray.models.runtime import Runtime, ready_to_run
by = ready_to_run(Runtime("openvino"), torch.nn.Conv2d(1, 1, 3).eval(), torch.device("cpu"), (1, 8, 8))
print(type(by).__name__, "openvino_telemetry" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert said.split() == ["_OpenVino", "False"]
