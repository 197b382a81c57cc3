import numpy as np
import pytest
import torch
from torch import nn

from medray.models.embedding import Telling, deepest_layer, telling
from medray.models.networks import build_model
from medray.models.runtime import Runtime, ready_to_run
from medray.models.spec import FEATURES, NetworkSpec

CPU = torch.device("cpu")
DEEPEST = {
    "unet": 384,
    "dynunet": 256,
    "segresnet": 128,
    "resnet": 128,
    "densenet": 120,
    "vit": 96,
    "unetr": 192,
}


@pytest.mark.parametrize("name", list(DEEPEST))
def test_the_deepest_layer_is_found_whatever_the_network(name):
    spec = NetworkSpec(name=name, features=FEATURES[name])
    network = build_model(spec, 1, 3, (32, 32, 32)).eval()
    images = torch.rand(2, 1, 32, 32, 32)
    exact = network(images)
    said, found = telling(network, images.shape[1:], CPU)(images)
    assert torch.equal(said, exact), "the answer is the same"
    assert found.shape == (2, DEEPEST[name])
    layer = deepest_layer(network, images)
    assert layer is not None
    alone = Telling(network, layer)(images[:1])[1]
    assert torch.allclose(alone[0], found[0], atol=1e-4), "and each image has its own"


def test_a_network_that_takes_two_scans_apart_tells_nothing():
    network = build_model(NetworkSpec(name="siamese", features=FEATURES["siamese"]), 2, 4, (32, 32, 32)).eval()
    assert deepest_layer(network, torch.rand(2, 2, 32, 32, 32)) is None


def test_a_network_without_layers_is_left_as_it_is():
    class Bare(nn.Module):
        def forward(self, images):
            return images * 2

    network = Bare()
    assert telling(network, (1, 4, 4, 4), CPU) is network


@pytest.mark.parametrize(("name", "patch"), [("unet", (32, 32, 32)), ("segresnet", (32, 32, 32))])
def test_openvino_tells_the_same(name, patch):
    pytest.importorskip("openvino")
    network = build_model(NetworkSpec(name=name, features=FEATURES[name]), 1, 2, patch).eval()
    images = torch.rand(3, 1, *patch)
    tells = telling(network, images.shape[1:], CPU)
    assert isinstance(tells, Telling)
    with torch.no_grad():
        exact = tells(images)
    ready = ready_to_run(Runtime("openvino", threads=2), tells, CPU, tuple(images.shape[1:]))
    assert type(ready).__name__ == "_OpenVino"
    for found, wanted in zip(ready(images), exact, strict=True):
        assert np.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))
