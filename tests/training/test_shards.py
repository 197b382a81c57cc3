"""A network in shards is the network that it would be in one piece."""

import pytest
import torch
from torch import distributed

import medray
from medray.config import load
from medray.errors import ConfigError
from medray.models.networks import build_model
from medray.models.spec import FEATURES, NetworkSpec
from medray.preprocessing.planning import plan
from medray.training.checkpoint import load_learner, save_learner
from medray.training.config import FitConfig
from medray.training.learner import Learner
from medray.training.shards import _blocks, spread
from tests.phantoms import SMALL_PLAN

CPU = torch.device("cpu")
UNETR = {"patch": [16, 16, 16], "network": {"name": "unetr", "features": [4, 32]}, "val": 0.2, "test": 0.2}


@pytest.fixture
def alone(tmp_path):
    """A process group of one, in double precision: Adam makes steps of rounding where a gradient is almost nought."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    distributed.destroy_process_group()


def trained(recipe, steps, *, shard):
    config = FitConfig(shard=shard, seed=1)
    learner = Learner.fresh(recipe, config, (lambda model: spread(model, CPU)) if shard else (lambda model: model))
    step(learner, steps)
    return learner


def step(learner, steps, seed=2):
    torch.manual_seed(seed)
    for _ in range(steps):
        learner.wrapped(torch.randn(2, 1, 16, 16, 16)).square().mean().backward()
        learner.advance(1.0)
    learner.settle()


@pytest.mark.parametrize("changes", [SMALL_PLAN, UNETR])
def test_steps_in_shards_are_the_same_steps(alone, phantom_cohort, changes):
    recipe = plan(phantom_cohort, changes=changes)
    whole, parts = (trained(recipe, 3, shard=shard) for shard in (False, True))
    expected, found = whole.judged.state_dict(), parts.judged.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-12), name


def test_a_learner_in_shards_comes_back(alone, phantom_cohort, tmp_path):
    recipe = plan(phantom_cohort, changes=UNETR)
    learner = trained(recipe, 2, shard=True)
    save_learner(tmp_path, learner)
    other = trained(recipe, 1, shard=True)
    load_learner(tmp_path, other)
    for one in (learner, other):
        step(one, 2, seed=5)
    expected = learner.judged.state_dict()
    assert all(torch.allclose(value, expected[name], rtol=0, atol=1e-12) for name, value in other.judged.state_dict().items())


@pytest.mark.parametrize(("name", "count"), [("unetr", 12), ("swinunetr", 2), ("vit", 4)])
def test_the_blocks_of_transformers_are_spread_one_by_one(name, count):
    network = build_model(NetworkSpec(name=name, features=FEATURES[name]), 1, 2, (64, 64, 64))
    assert len(_blocks(network)) >= count


def test_what_shards_can_t_be():
    with pytest.raises(ConfigError, match="needs a second whole network"):
        load(FitConfig, {"shard": True, "average": 0.9}, what="--set")


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_in_shards_end_where_two_whole_ones_do(local_ray, phantom_cohort, tmp_path):
    prepared = medray.prepare(phantom_cohort, medray.plan(phantom_cohort, changes=UNETR), tmp_path / "prepared")
    histories = []
    for shard in (False, True):
        config = FitConfig(epochs=2, steps=4, mixed=False, picture=False, shard=shard)
        run = medray.fit(prepared, config, name=f"shard-{shard}".lower(), workers=2, runs=tmp_path / "runs")
        histories.append([record["loss"] for record in run.history])
    assert histories[1] == pytest.approx(histories[0], rel=1e-4)
    assert medray.Predictor.load(tmp_path / "runs" / "shard-true" / "1" / "model").plan == prepared.plan
