import pytest
import torch
from safetensors.torch import load_file, save_file

from medray import config
from medray.errors import ConfigError
from medray.models.networks import NETWORKS, build_model
from medray.models.spec import COARSE, FEATURES, NetworkSpec

SMALL = {
    "unet": (4, 8, 16),
    "dynunet": (4, 8, 16),
    "segresnet": (8, 16, 32),
    "unetr": (4, 24),
    "swinunetr": (12, 24, 48, 96),
    "resnet": (4, 8, 8, 8),
    "densenet": (4, 4),
    "vit": (16, 16),
    "spade": (4, 8),
    "siamese": (4, 8, 16),
}


def test_every_network_has_features_to_start_from():
    assert NETWORKS.keys() == FEATURES.keys() == SMALL.keys()
    for name, features in FEATURES.items():
        assert NetworkSpec(name=name, features=features).divisor >= 2


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("flat", [False, True])
def test_every_network_answers_on_its_input_s_grid(name, norm, flat):
    spec = NetworkSpec(name=name, features=SMALL[name], norm=norm)
    patch = (3 * spec.divisor, 2 * spec.divisor, 1 if flat else 2 * spec.divisor)
    assert spec.fits(patch)
    out = build_model(spec, 2, 4, patch).eval()(torch.zeros(1, 2, *patch))
    assert out.shape == (1, 4, *patch)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_weight_of_every_network_learns(name):
    spec = NetworkSpec(name=name, features=SMALL[name])
    patch = (spec.divisor * 2, spec.divisor * 2, spec.divisor * 2)
    model = build_model(spec, 2, 4, patch)
    model(torch.randn(2, 2, *patch)).square().mean().backward()
    assert not [key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


@pytest.mark.parametrize(("name", "deep"), [*((name, False) for name in sorted(NETWORKS)), ("dynunet", True)])
def test_every_weight_has_one_name_and_goes_into_a_file(name, deep, tmp_path):
    spec = NetworkSpec(name=name, features=SMALL[name], deep_supervision=deep)
    patch = (spec.divisor * 2, spec.divisor * 2, spec.divisor * 2)
    model, other = (build_model(spec, 2, 4, patch) for _ in range(2))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    image = torch.randn(1, 2, *patch)
    assert torch.equal(other.eval()(image), model.eval()(image))


@pytest.mark.parametrize("name", COARSE)
def test_a_coarse_network_repeats_its_values(name):
    spec = NetworkSpec(name=name, features=SMALL[name])
    patch = (32, 32, 16)
    out = build_model(spec, 1, 1, patch).eval()(torch.randn(1, 1, *patch))
    assert len(out.unique()) <= 32 * 32 * 16 / 8**3


def test_deep_supervision_answers_at_several_depths_in_training_alone():
    spec = NetworkSpec(name="dynunet", features=(4, 8, 16, 32), deep_supervision=True)
    model = build_model(spec, 1, 3, (16, 16, 16))
    assert model(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 3, 16, 16, 16)
    assert model.eval()(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)
    flat = build_model(spec, 1, 3, (16, 16, 1))
    assert flat(torch.zeros(1, 1, 16, 16, 1)).shape == (1, 3, 3, 16, 16, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": [8]}, "features"),
        ({"name": "vit", "features": [8, 16]}, "equally wide"),
        ({"name": "swinunetr", "features": [12, 24, 48, 95]}, "doubles"),
        ({"name": "resnet", "features": [8, 16]}, "a resnet has 4"),
        ({"name": "unet", "deep_supervision": True}, "use a dynunet"),
        ({"name": "dynunet", "features": [8, 16]}, "a dynunet has three or more"),
        ({"name": "alexnet"}, "name = 'alexnet'"),
    ],
)
def test_specs_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        config.load(NetworkSpec, settings, what="the plan")


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet", "resnet", "densenet", "spade", "siamese"])
def test_what_extends_says_the_same_of_a_part_as_of_the_whole(name):
    spec = NetworkSpec(name=name, features=SMALL[name])
    assert spec.extends
    torch.manual_seed(0)
    network = build_model(spec, 2, 1, (512, 512, 1)).eval()
    image = torch.randn(1, 2, 512, 512, 1)
    with torch.inference_mode():
        whole, part = network(image), network(image[:, :, 64:-64, 64:-64])
    apart = (whole[0, 0, 64:-64, 64:-64] - part[0, 0]).abs()[..., 0]
    assert apart[184:200, 184:200].max() < 1e-4, "in the middle, where no edge is near"
    assert apart.max() > 1e-3, "at its edges it sees that something else is there"


@pytest.mark.parametrize("name", COARSE)
def test_a_coarse_network_repeats_its_answer_by_its_stride(name):
    spec = NetworkSpec(name=name, features=SMALL[name])
    step = spec.stride
    said = build_model(spec, 1, 2, (64, 32, 32)).eval()(torch.randn(1, 1, 64, 32, 32))
    kept = said[:, :, ::step, ::step, ::step]
    assert kept.unique().numel() > 2
    for axis in (2, 3, 4):
        kept = kept.repeat_interleave(step, axis)
    assert torch.equal(said, kept)
