import pytest
import torch

from medray import config
from medray.errors import ConfigError
from medray.models.networks import NETWORKS, build_model
from medray.models.spec import NetworkSpec


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_every_network_answers_on_its_input_s_grid(name, norm):
    spec = NetworkSpec(name=name, features=(4, 8, 16), norm=norm)
    assert spec.divisor == 4
    out = build_model(spec, 1, 3).eval()(torch.zeros(2, 1, 16, 8, 12))
    assert out.shape == (2, 3, 16, 8, 12)


def test_specs_are_checked():
    with pytest.raises(ConfigError, match="features"):
        config.load(NetworkSpec, {"features": [8]}, what="the plan")
