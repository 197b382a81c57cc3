import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.inference.aggregator import Aggregator, importance
from medray.preprocessing.patches import crop, tile_starts

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


def test_importance_is_largest_in_the_middle():
    weight = importance((8, 8, 8))
    assert weight.max() == weight[4, 4, 4]
    assert weight.min() > 0
