import numpy as np
import pytest
import torch

from medray.preprocessing.plan import plan
from medray.tasks.task import task_of


@pytest.fixture
def task(phantom_cohort):
    return task_of(plan(phantom_cohort))


def test_a_right_answer_costs_less(task):
    target = torch.randint(0, 3, (2, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float() * 8
    assert task.channels == 3
    assert task.loss(right, target) < 0.1
    assert task.loss(-right, target) > 1


def test_loss_has_a_gradient(task):
    logits = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    task.loss(logits, torch.ones(1, 4, 4, 4, dtype=torch.uint8)).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_decoding_writes_label_values(task):
    probabilities = np.zeros((3, 2, 2, 2), np.float32)
    probabilities[2] = 1
    assert np.unique(task.decode(probabilities, (2, 2, 2))).tolist() == [4]
    assert task.decode(probabilities, (5, 4, 3)).shape == (5, 4, 3)


def test_probabilities_sum_to_one(task):
    assert torch.allclose(task.probabilities(torch.randn(1, 3, 4, 4, 4)).sum(1), torch.ones(1, 4, 4, 4))


def test_score_is_dice_by_name(task):
    mask = np.array([[[0, 1, 4]]], np.uint8)
    assert task.score(mask, mask) == {"ball": 1.0, "core": 1.0}
