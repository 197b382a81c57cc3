import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from medray.synthesis.anatomies import Invention, invent

SHAPE = (28, 24, 20)


def person(seed, lesions=2):
    """A ball of tissue 1 in 2, with lesions 3 in the inner tissue."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    distance = np.linalg.norm((grid - np.array(SHAPE) / 2) / (np.array(SHAPE) / 2), axis=-1)
    mask = np.where(distance < 0.6, 2, np.where(distance < 0.85, 1, 0)).astype(np.uint8)
    for _ in range(lesions):
        middle = np.array(SHAPE) / 2 + rng.uniform(-3, 3, 3)
        mask[np.linalg.norm(grid - middle, axis=-1) < 2] = 3
    return mask


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_a_new_label_map_is_like_the_known_ones_and_none_of_them(seed):
    known = [person(number) for number in range(3)]
    made = invent(np.random.default_rng(seed), known, Invention(rare=(3,)))
    assert made.shape == SHAPE
    assert made.dtype == np.uint8
    assert set(np.unique(made)) <= {0, 1, 2, 3}
    assert not any(np.array_equal(made, mask) for mask in known)
    for number in (1, 2):
        usual = np.mean([(mask == number).sum() for mask in known])
        assert 0.5 < (made == number).sum() / usual < 1.6
    assert label(made == 3)[1] <= 5


def test_lesions_lie_in_the_tissue_that_they_came_from():
    known = [person(number) for number in range(4)]
    counts = []
    for seed in range(30):
        made = invent(np.random.default_rng(seed), known, Invention(rare=(3,)))
        counts.append(label(made == 3)[1])
        around = made.copy()
        for axis in range(3):
            for step in (-1, 1):
                moved = np.roll(made == 3, step, axis)
                touched = around[moved & (made != 3)]
                assert (touched == 0).sum() == 0, "no lesion touches the outside"
    assert min(counts) == 0, "some people are healthy"
    assert max(counts) >= 2


def test_equal_draws_are_equal_maps():
    known = [person(number) for number in range(2)]
    first, second = (invent(np.random.default_rng(5), known, Invention(rare=(3,))) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_picture_stays_in_its_plane():
    known = [person(number)[:, :, 10:11] for number in range(3)]
    made = invent(np.random.default_rng(1), known, Invention(rare=(3,)))
    assert made.shape == (28, 24, 1)
    assert (made > 0).sum() > 100


def test_without_rare_labels_a_map_is_only_bent():
    made = invent(np.random.default_rng(2), [person(0, lesions=0)], Invention(rare=()))
    assert set(np.unique(made)) == {0, 1, 2}
