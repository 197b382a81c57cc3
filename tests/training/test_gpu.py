"""What a GPU changes, and what it must not. Left out where there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

import medray
from medray.inference.predictor import Predictor
from medray.preprocessing.planning import plan
from medray.training.checkpoint import load_learner, save_learner
from medray.training.config import FitConfig
from medray.training.data import Batches
from medray.training.learner import Learner
from medray.training.loop import run_epochs
from medray.training.shards import spread
from tests.phantoms import SMALL_PLAN

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU = torch.device("cuda", 0)
UNETR = {"patch": [16, 16, 16], "network": {"name": "unetr", "features": [4, 32]}, "val": 0.2, "test": 0.2}


def trained(recipe, cases, config, learner=None):
    learner = learner or Learner.fresh(recipe, config, lambda model: model.to(GPU))
    batches = Batches(cases[:7], recipe, config).beside(GPU, 4)
    run_epochs(learner, batches, cases[7:], lambda record: None)
    return learner


@pytest.mark.parametrize("settings", [{}, {"compile": True, "channels_last": True}, {"average": 0.9, "accumulate": 2}])
def test_it_learns_and_goes_on_from_a_checkpoint(recipe, cases, settings, tmp_path):
    pace: dict[str, Any] = {"steps": 25, "learning_rate": 1e-2}
    learner = trained(recipe, cases, FitConfig(epochs=2, **pace, **settings))
    save_learner(tmp_path, learner)
    config = FitConfig(epochs=3, **pace, **settings)
    other = Learner.fresh(recipe, config, lambda model: model.to(GPU))
    load_learner(tmp_path, other)
    assert other.history == learner.history
    for name, tensor in learner.judged.state_dict().items():
        assert torch.equal(tensor, other.judged.state_dict()[name]), name
    trained(recipe, cases, config, other)
    first, last = other.history[0], other.history[-1]
    assert last["loss"] < 0.7 * first["loss"]
    assert last["scores"]["ball"] > 0.8


def test_steps_are_those_of_a_cpu(recipe, cases):
    """In float32, a few steps: rounding differs and nothing else."""
    config = FitConfig(epochs=1, steps=3, mixed=False)
    found = trained(recipe, cases, config)
    expected = Learner.fresh(recipe, config)
    run_epochs(expected, Batches(cases[:7], recipe, config), cases[7:], lambda record: None)
    assert found.history[0]["loss"] == pytest.approx(expected.history[0]["loss"], rel=1e-3)


def test_a_cpu_says_what_the_gpu_says(recipe, cases, phantom_cohort):
    learner = trained(recipe, cases, FitConfig(epochs=3, steps=25, learning_rate=1e-2))
    model = learner.judged.eval()
    volume = phantom_cohort.volume(phantom_cohort.rows[0])
    there = Predictor(model, recipe, GPU).predict(volume)
    here = Predictor(model.cpu(), recipe, torch.device("cpu")).predict(volume)
    assert np.mean(there.mask.voxels != here.mask.voxels) < 1e-3
    assert there.mask.voxels.any()


def test_a_network_in_shards_on_a_gpu(recipe, phantom_cohort, tmp_path):
    """One GPU is enough to run what more would: NCCL, the mesh, gathering and scattering."""
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, device_id=GPU)
    try:
        learners = []
        for shard in (False, True):
            config = FitConfig(shard=shard, seed=1)
            wrap = (lambda model: spread(model, GPU)) if shard else (lambda model: model.to(GPU))
            learner = Learner.fresh(plan(phantom_cohort, changes=UNETR), config, wrap)
            torch.manual_seed(2)
            for _ in range(3):
                learner.wrapped(torch.randn(2, 1, 16, 16, 16).to(GPU)).square().mean().backward()
                learner.advance(1.0)
            learner.settle()
            learners.append(learner)
        expected, found = (learner.judged.state_dict() for learner in learners)
        assert all(torch.allclose(found[name], value, atol=1e-3) for name, value in expected.items())
        save_learner(tmp_path, learners[1])
        load_learner(tmp_path, learners[1])
    finally:
        distributed.destroy_process_group()


@pytest.mark.ray
def test_a_fit_takes_the_gpu_and_its_model_runs_anywhere(phantom_cohort, tmp_path):
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=1, log_to_driver=False, logging_level="ERROR")
    try:
        prepared = medray.prepare(phantom_cohort, plan(phantom_cohort, changes=SMALL_PLAN), tmp_path / "prepared")
        config = FitConfig(epochs=2, steps=25, learning_rate=1e-2)
        run = medray.fit(prepared, config, name="gpu", runs=tmp_path / "runs")
        assert run.history[-1]["scores"]["ball"] > 0.5
    finally:
        ray.shutdown()
    volume = phantom_cohort.volume(phantom_cohort.rows[0])
    masks = [Predictor.load(Path(run.model.path), device).predict(volume).mask.voxels for device in ("cuda", "cpu")]
    assert np.mean(masks[0] != masks[1]) < 1e-3
