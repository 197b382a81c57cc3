from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.preprocessing.patches import crop, draw_start

patches = st.tuples(*[st.integers(2, 12)] * 3)


@given(st.tuples(*[st.integers(-6, 12)] * 3), patches)
def test_crops_beyond_the_edge_repeat_it(start, patch):
    volume = np.arange(7 * 8 * 9).reshape(1, 7, 8, 9)
    inside = all(begin < size and begin + length > 0 for begin, length, size in zip(start, patch, (7, 8, 9), strict=True))
    if inside:
        found = crop(volume, start, patch)
        where = [np.clip(np.arange(b, b + n), 0, s - 1) for b, n, s in zip(start, patch, (7, 8, 9), strict=True)]
        assert np.array_equal(found, volume[:, where[0]][:, :, where[1]][:, :, :, where[2]])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_patches_lie_inside(rng, share):
    places = cycle([(0, 0, 0), (29, 29, 5), None])
    for _ in range(200):
        start = draw_start(rng, (30, 30, 6), (8, 8, 8), lambda _: next(places), share)
        assert all(0 <= begin <= max(0, size - 8) for begin, size in zip(start, (30, 30, 6), strict=True))


def test_a_patch_of_one_slice_shows_the_voxel_that_it_was_drawn_for(rng):
    for _ in range(50):
        start = draw_start(rng, (30, 30, 20), (8, 8, 1), lambda _: (15, 15, 11), 1.0)
        assert start[2] == 11
