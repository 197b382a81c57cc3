from itertools import cycle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.preprocessing.patches import Aggregator, crop, draw_start, importance, tile_starts

shapes = st.tuples(*[st.integers(1, 30)] * 3)
patches = st.tuples(*[st.integers(2, 12)] * 3)


@settings(deadline=None)
@given(shapes, patches, st.floats(0, 0.7))
def test_cutting_and_blending_are_inverses(shape, patch, overlap):
    volume = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    aggregator = Aggregator(2, shape, patch, torch.device("cpu"))
    for start in tile_starts(shape, patch, overlap=overlap):
        aggregator.add(torch.from_numpy(np.ascontiguousarray(crop(volume, start, patch))), start)
    assert np.abs(aggregator.result().numpy() - volume).max() < 1e-4


@given(st.tuples(*[st.integers(-6, 12)] * 3), patches)
def test_crops_beyond_the_edge_repeat_it(start, patch):
    volume = np.arange(7 * 8 * 9).reshape(1, 7, 8, 9)
    inside = all(begin < size and begin + length > 0 for begin, length, size in zip(start, patch, (7, 8, 9), strict=True))
    if inside:
        found = crop(volume, start, patch)
        where = [np.clip(np.arange(b, b + n), 0, s - 1) for b, n, s in zip(start, patch, (7, 8, 9), strict=True)]
        assert np.array_equal(found, volume[:, where[0]][:, :, where[1]][:, :, :, where[2]])


def test_importance_is_largest_in_the_middle():
    weight = importance((8, 8, 8))
    assert weight.max() == weight[4, 4, 4]
    assert weight.min() > 0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_patches_lie_inside(rng, share):
    places = cycle([(0, 0, 0), (29, 29, 5), None])
    for _ in range(200):
        start = draw_start(rng, (30, 30, 6), (8, 8, 8), lambda _: next(places), share)
        assert all(0 <= begin <= max(0, size - 8) for begin, size in zip(start, (30, 30, 6), strict=True))
