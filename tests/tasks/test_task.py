"""What every task must do, and then what each one does."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from medray.evaluation.calibration import Calibration
from medray.evaluation.detection import box_iou
from medray.imaging.boxes import corners
from medray.preprocessing.blocks import Blocks
from medray.preprocessing.planning import plan
from medray.preprocessing.resample import resample
from medray.tasks.answer import Answer, Example, Truth
from medray.tasks.heat import boxes_of
from medray.tasks.task import task_of

SHAPE = (24, 20, 16)
PATCH = [24, 24, 16]


def recipe(cohort, task, **changes):
    if task == "diagnosis":
        made = plan(cohort, task="segmentation", changes={"network": {"features": [4, 8]}})
        counts = 2 if "exclusive" not in changes else 3
        targets = ("ball", "core", "other")[:counts]
        facts: dict[str, Any] = {"task": "diagnosis", "targets": targets, "target_weights": (1.0,) * counts, "regions": {}}
        return dataclasses.replace(made, **(facts | changes))
    return plan(cohort, task=task, changes={"network": {"features": [4, 8]}, **changes})


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "segmentation": ("segmentation", {}),
    "segmentation of one label": ("segmentation", {"targets": ["core"]}),
    "segmentation of regions": ("segmentation", {"regions": {"whole": ["ball", "core"], "core": ["core"]}}),
    "diagnosis": ("diagnosis", {}),
    "diagnosis that is located": ("diagnosis", {"located": True}),
    "diagnosis of one of several": ("diagnosis", {"exclusive": True}),
    "detection": ("detection", {"targets": ["ball", "core"]}),
    "synthesis": ("synthesis", {"network": {"features": [4, 8]}}),
}


@pytest.fixture(params=VARIANTS)
def made(request, phantom_cohort):
    task, changes = VARIANTS[request.param]
    return recipe(phantom_cohort, task, **changes)


@pytest.fixture
def task(made):
    return task_of(made)


@pytest.fixture
def mask():
    """Channel numbers: two balls with a core, apart from each other."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    answer = np.zeros(SHAPE, np.uint8)
    for centre in ((6, 6, 7), (17, 13, 8)):
        distance = np.linalg.norm(grid - centre, axis=-1)
        answer[distance < 4.5] = 1
        answer[distance < 2.2] = 2
    return answer


def example(mask, present):
    """A mask with an image in which labels differ, and their textures too."""
    rng = np.random.default_rng(0)
    image = 1 + mask.astype(np.float32) + rng.normal(0, 0.1 + 0.1 * mask).astype(np.float32)
    return Example(image[np.newaxis], mask, present)


def perfect(task, made, mask, present):
    """Outputs that say exactly what the target says."""
    target = torch.from_numpy(task.target(example(mask, present)))
    if made.task == "synthesis":
        return target
    if made.located:
        return torch.logit((target**8).clamp(1e-4, 1 - 1e-4)) + 4
    if made.task == "diagnosis":
        evidence = (target * 2 - 1) * 9
        if made.exclusive:
            evidence = target * 9
        return evidence[:, None, None, None].expand(-1, *SHAPE) + 4
    if made.task == "detection":
        count = len(made.targets)
        return torch.cat([torch.logit((target[:count] ** 8).clamp(1e-4, 1 - 1e-4)) + 4, target[count:]])
    if made.regions:
        return (target.float() * 2 - 1) * 9
    return torch.nn.functional.one_hot(target[0].long(), task.channels).movedim(-1, 0).float() * 9


def truth_of(made, mask, present, finer=1):
    image = resample(example(mask, present).image, (SHAPE[0] * finer, SHAPE[1] * finer, SHAPE[2] * finer), order=1)
    mask = mask.repeat(finer, 0).repeat(finer, 1).repeat(finer, 2)
    return Truth(made.labels.from_channels(mask), (1.0, 1.0, 1.0), present, image)


def test_a_right_answer_costs_less_than_a_wrong_one(task, made, mask):
    present = frozenset({"ball"})
    right = perfect(task, made, mask, present)[None]
    target = torch.from_numpy(task.target(example(mask, present)))[None]
    assert right.shape == (1, task.channels, *SHAPE)
    assert task.loss(right, target) < 0.12
    assert task.loss(-right, target) > 4 * task.loss(right, target) + 0.5


def test_the_loss_has_a_gradient_at_every_channel(task, made, mask):
    present = frozenset({"ball"})
    outputs = torch.zeros(2, task.channels, *SHAPE, requires_grad=True)
    target = torch.from_numpy(np.stack([task.target(example(mask, present)), task.target(example(mask * 0, frozenset()))]))
    task.loss(outputs, target).backward()
    assert outputs.grad is not None
    assert (outputs.grad.abs().flatten(2).sum(dim=(0, 2)) > 0).all()


def test_an_empty_patch_has_a_finite_loss(task, mask):
    target = torch.from_numpy(task.target(example(mask * 0, frozenset())))[None]
    assert torch.isfinite(task.loss(torch.randn(1, task.channels, *SHAPE), target))


@pytest.mark.parametrize("finer", [1, 2])
def test_a_perfect_map_decodes_to_a_perfect_score(task, made, mask, finer):
    shape = tuple(n * finer for n in SHAPE)
    present = frozenset({"ball"})
    activated = task.activate(perfect(task, made, mask, present)[None])[0].numpy()
    answer = task.decode(Blocks.of(activated), shape)
    other = task.decode(Blocks.of(task.activate(perfect(task, made, mask * 0, frozenset())[None])[0].numpy()), shape)
    records = [
        task.compare(answer, truth_of(made, mask, present, finer)),
        task.compare(other, truth_of(made, mask * 0, frozenset(), finer)),
    ]
    summary = task.summarise(records)
    assert set(summary) == set(made.targets)
    assert summary[made.targets[0]][task.measure] > 0.93
    quick = task.compare(answer, truth_of(made, mask, present, finer), thorough=False)
    assert task.summarise([quick])[made.targets[0]].keys() >= {task.measure}


def test_nothing_to_sum_up_is_no_number(task, made):
    for measures in task.summarise([]).values():
        assert all(math.isnan(value) for value in measures.values())


def test_regions_are_channels_of_their_own(phantom_cohort, mask):
    made = recipe(phantom_cohort, "segmentation", **VARIANTS["segmentation of regions"][1])
    task = task_of(made)
    target = task.target(example(mask, frozenset()))
    assert np.array_equal(target[0], mask > 0)
    assert np.array_equal(target[1], mask == 2)
    assert task.channels == 2


def test_one_label_leaves_the_others_to_background(phantom_cohort, mask):
    task = task_of(recipe(phantom_cohort, "segmentation", targets=["core"]))
    target = task.target(example(mask, frozenset()))
    assert np.array_equal(target[0], mask == 2)
    answer = task.decode(Blocks.of(np.stack([mask != 2, mask == 2]).astype(np.float32)), SHAPE)
    assert answer.mask is not None
    assert np.array_equal(answer.mask[0], np.where(mask == 2, 4, 0)), "the label's own value, not its channel"


@pytest.mark.parametrize("changes", [{}, {"regions": {"ball": ["ball"], "core": ["core"]}}])
def test_what_is_one_piece_leaves_the_smaller_ones_out(phantom_cohort, changes):
    task = task_of(recipe(phantom_cohort, "segmentation", one_piece=["ball"], **changes))
    activated = np.full((task.channels, *SHAPE), 0.1, np.float32)
    ball, core = task.channels - 2, task.channels - 1
    activated[ball, 2:12, 2:12, 2:12] = 0.9
    activated[ball, 20:23, 2:5, 2:5] = 0.9
    for start in (2, 14):
        activated[core, start : start + 3, 15:18, 2:5] = 0.9
    mask = task.decode(Blocks.of(activated), SHAPE).mask
    assert mask is not None
    found = mask if changes else np.stack([mask[0] == value for value in (1, 4)])
    assert found[0].sum() == 1000
    assert found[1].sum() == 2 * 27, "only what is said to be one piece is"


def test_pieces_that_validation_found_too_small_are_the_next_best_thing(phantom_cohort):
    made = recipe(phantom_cohort, "segmentation")
    voxel_ml = math.prod(made.spacing_mm) / 1000
    activated = np.full((3, *SHAPE), 0.1, np.float32)
    activated[1] = 0.4
    activated[2, 2:5, 2:5, 2:5] = activated[2, 10:12, 10, 10] = 0.9
    plain = task_of(made).decode(Blocks.of(activated), SHAPE).mask
    meant = task_of(made, {"core": Calibration(smallest_ml=3 * voxel_ml)}).decode(Blocks.of(activated), SHAPE).mask
    assert plain is not None
    assert meant is not None
    assert (plain == 4).sum() == 29
    assert (meant == 4).sum() == 27
    assert (meant == 1).sum() == activated[0].size - 27


def test_validation_finds_how_small_a_piece_may_be(phantom_cohort):
    made = recipe(phantom_cohort, "segmentation")
    true = np.zeros(SHAPE, np.uint8)
    true[2:8, 2:8, 2:8] = 4
    said = true.copy()
    said[20, 15, 10:12] = 4
    records = [
        task_of(made).compare(Answer(mask=mask[None]), Truth(real, made.spacing_mm, frozenset()), thorough=False)
        for mask, real in ((said, true), (said - true, np.zeros_like(true)))
    ]
    found = task_of(made).calibrate(records)
    assert set(found) == {"core"}
    assert task_of(made).summarise(records)["core"]["dice"] < 0.6
    assert task_of(made, found).summarise(records)["core"]["dice"] == 1.0


def test_segmentation_is_measured_in_mm_and_share(phantom_cohort, mask):
    made = recipe(phantom_cohort, "segmentation")
    task, moved = task_of(made), np.roll(mask, 1, axis=0)
    truth = Truth(made.labels.from_channels(mask), (2.0, 1.0, 1.0), frozenset())
    record = task.compare(Answer(mask=made.labels.from_channels(moved)[None]), truth)
    assert 1.0 < record["core"]["hd95_mm"] <= 2.0
    assert record["core"]["volume_error"] == 0.0
    assert record["core"]["surface_dice"] < 1
    assert 0.5 < record["core"]["dice"] < 1


def test_one_small_place_is_enough_for_a_finding(phantom_cohort):
    task = task_of(recipe(phantom_cohort, "diagnosis"))
    evidence = np.full((2, 32, 32, 32), -9.0, np.float32)
    evidence[0, 8:12, 8:12, 8:12] = 12.0
    answer = task.decode(Blocks.of(evidence), (32, 32, 32))
    assert answer.probabilities["ball"] > 0.98
    assert answer.probabilities["core"] < 0.01
    assert answer.saliency is not None
    assert answer.saliency[0, 9, 9, 9] > 0.98
    assert answer.saliency[0, 20, 20, 20] < 0.01


def test_exclusive_probabilities_sum_to_one(phantom_cohort, rng):
    task = task_of(recipe(phantom_cohort, "diagnosis", exclusive=True))
    answer = task.decode(Blocks.of(rng.normal(0, 3, (3, 8, 8, 8)).astype(np.float32)), (8, 8, 8))
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_boxes_come_back_from_their_own_target(phantom_cohort, mask):
    made = recipe(phantom_cohort, "detection", targets=["ball", "core"])
    task = task_of(made)
    activated = task.activate(perfect(task, made, mask, frozenset())[None])[0].numpy()
    for shape in (SHAPE, (12, 40, 16)):
        found = task.decode(Blocks.of(activated), shape).boxes
        for name, number in (("ball", 1), ("core", 2)):
            said = [box for box in found if box.label == name and box.score > 0.5]
            true = [box.scaled(SHAPE, shape) for box in boxes_of(mask == number, name)]
            assert len(said) == len(true) == 2
            assert box_iou(corners(said), corners(true)).max(axis=1).min() > 0.75
        assert [box.score for box in found] == sorted((box.score for box in found), reverse=True)


def test_a_scan_full_of_heat_gives_a_bounded_number_of_boxes(phantom_cohort, rng):
    task = task_of(recipe(phantom_cohort, "detection", targets=["core"]))
    heat = rng.uniform(0.1, 1, (4, 60, 60, 60)).astype(np.float32)
    heat[1:] = 0
    assert len(task.decode(Blocks.of(heat), (60, 60, 60)).boxes) <= 200


def test_pieces_that_touch_at_a_corner_are_one():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert len(boxes_of(mask, "x")) == 2


def test_deep_supervision_counts_coarser_depths_half(phantom_cohort):
    deep = {"network": {"name": "dynunet", "features": [4, 8, 16], "deep_supervision": True}}
    task = task_of(plan(phantom_cohort, changes=deep))
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=rng)
    right = 12.0 * torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1).float()
    wrong = right.roll(1, dims=1)
    good, bad = float(task.loss(right, target)), float(task.loss(wrong, target))
    assert bad > good + 1
    for depths, share in (((right, right), 0.0), ((wrong, right), 2 / 3), ((right, wrong), 1 / 3), ((wrong, wrong), 1.0)):
        assert float(task.loss(torch.stack(depths, dim=1), target)) == pytest.approx(good + share * (bad - good), rel=1e-4)
