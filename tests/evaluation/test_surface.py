import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice

from medray.evaluation.surface import surface_distance

masks = hnp.arrays(np.bool_, (7, 6, 5))


@settings(deadline=None, max_examples=60)
@given(masks, masks, st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3))
def test_agrees_with_monai(predicted, truth, spacing):
    if not predicted.any() or not truth.any():
        return
    found = surface_distance(predicted, truth, spacing, tolerance_mm=1.2)
    ours, theirs = (torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (predicted, truth))
    distance = compute_hausdorff_distance(ours, theirs, percentile=95, spacing=spacing, include_background=True)
    share = compute_surface_dice(ours, theirs, class_thresholds=[1.2], spacing=spacing, include_background=True)
    assert found.hd95_mm == pytest.approx(float(distance), abs=1e-4)
    assert found.surface_dice == pytest.approx(float(share), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(masks, masks)
def test_symmetric_and_zero_only_when_equal(first, second):
    one, other = surface_distance(first, second, (1, 1, 1)), surface_distance(second, first, (1, 1, 1))
    assert (one.hd95_mm, one.surface_dice) == pytest.approx((other.hd95_mm, other.surface_dice), nan_ok=True)
    same = surface_distance(first, first, (1, 1, 1))
    assert (same.hd95_mm, same.surface_dice) == ((0, 1) if first.any() else pytest.approx((math.nan, math.nan), nan_ok=True))


def test_a_cube_moved_by_two_voxels_of_three_mm():
    truth = np.zeros((20, 20, 20), bool)
    truth[5:10, 5:10, 5:10] = True
    found = surface_distance(np.roll(truth, 2, axis=0), truth, (3.0, 1.0, 1.0), tolerance_mm=6.0)
    assert found.hd95_mm == 6.0
    assert found.surface_dice == 1.0


def test_one_empty_mask_is_infinitely_far():
    full = np.ones((3, 3, 3), bool)
    found = surface_distance(~full, full, (1, 1, 1))
    assert (found.hd95_mm, found.surface_dice) == (math.inf, 0.0)


def test_a_picture_of_one_slice_has_an_edge_and_not_only_an_edge():
    truth = np.zeros((9, 9, 1), bool)
    truth[1:8, 1:8] = True
    moved = np.zeros_like(truth)
    moved[2:7, 2:7] = True
    assert surface_distance(moved, truth, (1, 1, 5), tolerance_mm=0.5).surface_dice == 0.0
    assert surface_distance(moved, truth, (1, 1, 5)).hd95_mm < 2
