import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.inference.aggregator import Aggregator, importance
from medray.preprocessing.blocks import Block, Blocks
from medray.preprocessing.patches import crop, tile_starts

shapes = st.tuples(*[st.integers(1, 30)] * 3)
patches = st.tuples(*[st.integers(2, 12)] * 3)


@settings(deadline=None)
@given(shapes, patches, st.floats(0, 0.7))
def test_cutting_and_blending_are_inverses(shape, patch, overlap):
    volume = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    starts = tile_starts(shape, patch, overlap=overlap)
    blocks: list[Block] = []
    aggregator = Aggregator(shape, starts, patch, torch.device("cpu"))
    for start in starts:
        blocks += aggregator.add(torch.from_numpy(np.ascontiguousarray(crop(volume, start, patch))), start)
    assert aggregator.held == 0
    assert np.abs(Blocks(shape, blocks).whole() - volume).max() < 1e-4
    assert sum(values[0].size for _, values in blocks) == volume[0].size, "each voxel once"


def test_only_what_overlaps_with_patches_to_come_is_held():
    shape, patch, most = (64, 40, 40), (16, 16, 16), 0
    starts = tile_starts(shape, patch, overlap=0.25)
    aggregator = Aggregator(shape, starts, patch, torch.device("cpu"))
    for start in starts:
        list(aggregator.add(torch.ones(3, *patch), start))
        most = max(most, aggregator.held)
    assert most <= 3 * (8 * 40 * 40 + 16 * 16 * 40), "half a layer, and a row of patches"


def test_importance_is_largest_in_the_middle():
    weight = importance((8, 8, 8))
    assert weight.max() == weight[4, 4, 4]
    assert weight.min() > 0
