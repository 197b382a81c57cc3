"""A progression: what a perfect map says, what exchanged scans say, and what classes mean."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from medray.evaluation.calibration import Calibration
from medray.imaging.transitions import Transitions
from medray.models.spec import NetworkSpec
from medray.preprocessing.blocks import Blocks
from medray.preprocessing.planning import plan
from medray.tasks.answer import Example, Truth
from medray.tasks.progression import CLASSES, Progression
from medray.tasks.task import task_of

SHAPE = (24, 20, 16)
LABELS = Transitions(("ball", "core"))


@pytest.fixture
def made(phantom_cohort):
    recipe = plan(phantom_cohort, task="segmentation", changes={"network": {"features": [4, 8]}})
    targets = tuple(LABELS.schema.names)
    facts: dict[str, Any] = {
        "task": "progression",
        "labels": LABELS.schema,
        "targets": targets,
        "target_weights": (1.0,) * (1 + len(targets)),
        "channels": 2,
        "spacing_mm": (1.0, 1.0, 2.0),
        "network": NetworkSpec(name="siamese", features=(4, 8)),
    }
    return dataclasses.replace(recipe, **facts)


@pytest.fixture
def task(made):
    return task_of(made)


def ball(radius):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    return (np.linalg.norm(grid - (11, 9, 7), axis=-1) < radius).astype(np.uint8)


def example(before, after):
    pair = LABELS.joined(before, after)
    return Example(np.stack([before, after]).astype(np.float32), pair)


def said(task, given):
    """The map of a model that is right, and a little unsure."""
    target = torch.from_numpy(task.target(given))
    evidence = torch.nn.functional.one_hot(target[0].long(), task.channels).movedim(-1, 0).float() * 12
    return task.activate(evidence[None])[0].numpy()


def course(task, before, after):
    return task.decode(Blocks.of(said(task, example(before, after))), SHAPE).courses["ball"]


def test_the_right_answer_costs_least(task):
    given = example(ball(4), ball(5))
    target = torch.from_numpy(task.target(given))[None]
    right = torch.nn.functional.one_hot(target[0, 0].long(), task.channels).movedim(-1, 0)[None].float() * 9
    wrong = right.flip(1)
    assert task.inputs == 2
    assert task.loss(right, target) + 0.3 < task.loss(wrong, target)


def test_volumes_are_in_mm3_and_growth_is_their_ratio(task):
    small, large = ball(4), ball(5)
    found = course(task, small, large)
    assert found.before_mm3 == pytest.approx(2.0 * small.sum(), rel=0.02)
    assert found.after_mm3 == pytest.approx(2.0 * large.sum(), rel=0.02)
    assert found.growth == pytest.approx(math.log(large.sum() / small.sum()), abs=0.01)
    assert found.percent == pytest.approx(100 * (large.sum() / small.sum() - 1), abs=2)
    assert found.over(2.0).rate_per_year == pytest.approx(found.growth / 2)
    assert found.rate_per_year is None
    assert found.kind == "grown"


def test_exchanged_scans_shrink_by_what_grew(task):
    there, back = course(task, ball(4), ball(5)), course(task, ball(5), ball(4))
    assert back.growth == pytest.approx(-there.growth, abs=1e-6)
    assert back.probabilities["shrunk"] == pytest.approx(there.probabilities["grown"])


@pytest.mark.parametrize(("before", "after", "kind"), [(4, 4, "stable"), (0, 5, "grown"), (5, 0, "shrunk"), (0, 0, "stable")])
def test_classes(task, before, after, kind):
    found = course(task, ball(before), ball(after))
    assert found.kind == kind
    assert math.isfinite(found.growth)
    assert set(found.probabilities) == set(CLASSES)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert min(found.probabilities.values()) >= 0


def test_validation_says_how_sure_a_class_is(task, made):
    def records(error):
        return [
            {name: {"growth": true + error * (-1) ** n, "true_growth": true} for name in LABELS.labels}
            for n, true in enumerate((-0.4, 0.0, 0.1, 0.5))
        ]

    sure, unsure = (Progression(made, task.calibrate(records(error))) for error in (0.02, 0.5))
    grown = [course(by, ball(4), ball(5)).probabilities["grown"] for by in (sure, unsure)]
    assert grown[0] > 0.99
    assert 0.5 < grown[1] < 0.8
    assert task.calibrate([]) == {}
    assert all(isinstance(curve, Calibration) and curve.offset == 0 for curve in task.calibrate(records(0.1)).values())


def test_measures_of_the_right_and_of_a_blind_answer(task):
    pairs = [(ball(a), ball(b)) for a, b in ((4, 5), (5, 4), (4, 4), (5, 5.1))]

    def measured(blind):
        records = []
        for before, after in pairs:
            seen = example(before, before if blind else after)
            answer = task.decode(Blocks.of(said(task, seen)), SHAPE)
            truth = Truth(LABELS.joined(before, after), (1.0, 1.0, 2.0), frozenset(), example(before, after).image)
            records.append(task.compare(answer, truth))
        return task.summarise(records)["ball"]

    right, blind = measured(blind=False), measured(blind=True)
    assert right["dice"] > 0.99
    assert right["change_dice"] > 0.99 > blind["change_dice"]
    assert right["growth_error"] < 0.01 < blind["growth_error"]
    assert (right["accuracy"], right["auc_grown"], right["auc_shrunk"]) == (1, 1, 1)
    assert blind["accuracy"] == pytest.approx(0.5)
    assert all(math.isnan(value) for value in task.summarise([])["ball"].values())


def test_a_label_map_of_one_time_point_is_no_truth(task):
    answer = task.decode(Blocks.of(said(task, example(ball(4), ball(5)))), SHAPE)
    with pytest.raises(ValueError, match="label map of a pair"):
        task.compare(answer, Truth(None, (1.0, 1.0, 2.0), frozenset(), np.zeros((2, *SHAPE), np.float32)))
