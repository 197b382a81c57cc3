import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medray.evaluation.overlap import overlap
from medray.evaluation.pieces import SIZES_ML, best_size, dice_from, kept_by_size, without_pieces

masks = arrays(bool, (7, 6, 5), elements=st.booleans())
VOXEL_ML = 0.004


@settings(deadline=None, max_examples=60)
@given(masks, st.integers(0, 40))
def test_what_stays_is_whole_pieces_of_at_least_the_size(mask, smallest):
    kept = without_pieces(mask, smallest=smallest)
    pieces, count = ndimage.label(mask)
    for piece in range(1, count + 1):
        inside = pieces == piece
        assert kept[inside].all() == (inside.sum() >= smallest)
        assert kept[inside].any() == kept[inside].all()
    assert not kept[~mask].any()


@settings(deadline=None, max_examples=60)
@given(masks)
def test_of_one_piece_the_largest_stays(mask):
    kept = without_pieces(mask, largest_only=True)
    assert ndimage.label(kept)[1] == min(1, ndimage.label(mask)[1])
    assert kept.sum() == max(np.bincount(ndimage.label(mask)[0].ravel())[1:], default=0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(masks, masks), min_size=1, max_size=4))
def test_the_dice_of_a_size_is_that_of_the_mask_without_smaller_pieces(pairs):
    found = [kept_by_size(said, true, VOXEL_ML) for said, true in pairs]
    for size in SIZES_ML:
        scores = [overlap(without_pieces(said, smallest=size / VOXEL_ML), true).dice for said, true in pairs]
        whole = [score for score in scores if not np.isnan(score)]
        assert dice_from(found, size) == pytest.approx(np.mean(whole) if whole else np.nan, nan_ok=True)
    assert dice_from(found, best_size(found)) >= dice_from(found, 0.0) or not any(true for true, _ in found)


def test_noise_in_the_healthy_is_left_out_and_lesions_are_not():
    true, healthy = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    true[2:8, 2:8, 2:8] = True
    noisy = true.copy()
    noisy[15:17, 15, 15] = True
    noise = healthy.copy()
    noise[4:6, 4, 4] = noise[9:12, 9, 9] = True
    found = [kept_by_size(noisy, true, VOXEL_ML), kept_by_size(noise, healthy, VOXEL_ML)]
    size = best_size(found)
    assert 3 * VOXEL_ML < size < 216 * VOXEL_ML
    assert dice_from(found, 0.0) == pytest.approx(0.5, abs=0.01)
    assert dice_from(found, size) == 1.0


def test_without_any_truth_nothing_is_left_out():
    noise = np.eye(6, dtype=bool)[..., None]
    assert best_size([kept_by_size(noise, np.zeros_like(noise), VOXEL_ML)]) == 0.0
    assert best_size([]) == 0.0
