import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medray.preprocessing.planning import plan
from medray.tasks.synthesis import Style, conditions, style_of
from medray.tasks.task import task_of

SHAPE = (32, 32, 16)


@pytest.fixture
def task(phantom_cohort):
    return task_of(plan(phantom_cohort, task="synthesis", changes={"network": {"features": [4, 8]}}))


def scan(seed, *, grain=0.1, shape=SHAPE):
    """Air, tissue of 2, some smooth bumps, and noise in the tissue."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 4 :] = 1
    bumps = gaussian_filter(np.random.default_rng(0).normal(0, 8, shape), [min(4, side - 1) for side in shape])
    return (np.where(mask == 1, 2 + bumps + rng.normal(0, grain, shape), -1).astype(np.float32)[None], mask)


def batch(*arrays):
    return torch.from_numpy(np.stack(arrays))


def test_a_style_says_how_bright_and_grainy_each_label_is():
    image, mask = scan(1, grain=0.1)
    style = style_of(image, mask, 2)
    assert style.there.tolist() == [True, True, False]
    assert style.bright[0] == pytest.approx([-1, np.median(image[0][mask == 1]), 0])
    assert style.grain[0] == pytest.approx([0, 0.1, 0], abs=0.015)


def test_a_generator_is_shown_noise_as_strong_as_the_grain(task):
    _, mask = scan(1)
    style = Style(np.array([[-1, 2, 0]], np.float32), np.array([[0, 0.3, 0]], np.float32), np.array([True, True, False]))
    shown = conditions(mask, style, np.random.default_rng(0))
    assert len(shown) == task.inputs == 5
    assert (shown[:3].argmax(axis=0) == mask).all()
    assert np.unique(shown[3]).tolist() == [-1, 2]
    assert (shown[4][mask == 0] == 0).all()
    assert shown[4][mask == 1].std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("shape", [SHAPE, (32, 32, 1)])
def test_chance_costs_less_than_its_absence(task, shape):
    real = batch(scan(1, shape=shape)[0])
    again, smooth, wild = (batch(scan(2, grain=grain, shape=shape)[0]) for grain in (0.1, 0.0, 0.4))
    chance = float(task.loss(again, real))
    assert float(task.loss(real, real)) == 0
    assert chance < 0.5 * float(task.loss(smooth, real))
    assert chance < 0.5 * float(task.loss(wild, real))
    assert chance < float(task.loss(again + 0.2, real)) - 0.1
