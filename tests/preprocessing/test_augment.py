import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.preprocessing.augment import Augmentation, augment, draw_augmentation

NOTHING = Augmentation((False, False, False), 1.0, 0.0, 1.0, 0.0, 0, None)


def patch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(1, 8, 8, 8)).astype(np.float32), rng.integers(0, 3, (8, 8, 8)).astype(np.uint8)


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_a_recorded_change_replays_and_leaves_its_input_alone(seed):
    image, mask = patch()
    before = image.copy()
    change = draw_augmentation(np.random.default_rng(seed))
    first, second = augment(image, mask, change), augment(image, mask, change)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert np.array_equal(image, before)
    assert first[0].shape == image.shape
    assert first[1].shape == mask.shape
    assert set(np.unique(first[1])) <= set(np.unique(mask))
    assert np.isfinite(first[0]).all()


def test_no_change_changes_nothing():
    image, mask = patch()
    found = augment(image, mask, NOTHING)
    assert np.allclose(found[0], image)
    assert np.array_equal(found[1], mask)


def test_flips_move_image_and_mask_together():
    image, mask = patch()
    image[0] = mask
    found = augment(image, mask, Augmentation((True, False, True), 1.0, 0.0, 1.0, 0.0, 0, None))
    assert np.array_equal(found[0][0], found[1])
    assert np.array_equal(found[1], np.flip(mask, (0, 2)))


def test_a_quarter_turn_moves_image_and_mask_together():
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[2, 4, 4] = 1
    turn = ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    image, turned = augment(mask[None].astype(np.float32), mask, Augmentation((False,) * 3, 1.0, 0.0, 1.0, 0.0, 0, turn))
    assert turned.sum() == 1
    assert np.array_equal(image[0] > 0.5, turned == 1)


def test_axes_that_are_not_alike_are_never_mirrored():
    flips = {draw_augmentation(np.random.default_rng(seed), (1, 2)).flips for seed in range(50)}
    assert {flip[0] for flip in flips} == {False}
    assert {flip[1:] for flip in flips} == {(False, False), (False, True), (True, False), (True, True)}
