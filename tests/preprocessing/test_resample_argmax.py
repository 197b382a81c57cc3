import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.preprocessing.blocks import Blocks
from medray.preprocessing.resample import resample
from medray.preprocessing.resample_argmax import Argmax, argmax, argmax_resampled

shapes = st.tuples(*[st.integers(1, 40)] * 3)


def smooth(count, shape, seed=2):
    """Classes in patches, as a network gives them, with noise that makes some borders rough."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    centres = rng.uniform(0, 1, (count, 3)) * np.array(shape)
    distances = np.linalg.norm(grid[None] - centres[:, :, None, None, None], axis=1)
    return (-distances + rng.normal(0, 0.3, distances.shape)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(shapes, shapes, st.integers(2, 12), st.booleans())
def test_it_is_the_argmax_of_channels_that_were_resampled(shape, new_shape, count, noise):
    channels = smooth(count, shape)
    if noise:
        channels = np.random.default_rng(2).uniform(0, 1, channels.shape).astype(np.float32)
    whole = resample(channels, new_shape, order=1)
    top = np.sort(whole, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    found = argmax_resampled(channels, new_shape)
    assert np.array_equal(found[clear], whole.argmax(axis=0)[clear])


@settings(deadline=None, max_examples=25)
@given(shapes, shapes, st.tuples(*[st.integers(6, 20)] * 3))
def test_a_map_in_blocks_is_the_same_and_few_rows_of_it_are_kept(shape, new_shape, sides):
    channels, most = smooth(3, shape), 0
    found = Argmax(shape, new_shape)
    for start in np.ndindex(*[-(-size // side) for size, side in zip(shape, sides, strict=True)]):
        i, j, k = (int(turn * side) for turn, side in zip(start, sides, strict=True))
        found.add((i, j, k), channels[:, i : i + sides[0], j : j + sides[1], k : k + sides[2]])
        most = max(most, sum(rows.count for rows in found._rows.values()))
    assert np.array_equal(found.result, argmax_resampled(channels, new_shape))
    assert most <= 2 * sides[0] + 1


def test_ties_go_to_the_lower_channel_and_the_second_is_known(rng):
    channels = rng.integers(0, 3, (5, 7, 8, 9)).astype(np.float32)
    second = np.empty((7, 8, 9), np.uint8)
    best = argmax(channels, second)
    assert np.array_equal(best, channels.argmax(axis=0))
    order = np.argsort(-channels, axis=0, kind="stable")
    assert np.array_equal(second, order[1])


def test_a_map_s_blocks_make_the_map_again(rng):
    volume = rng.normal(size=(2, 6, 5, 4)).astype(np.float32)
    assert Blocks.of(volume).whole() is volume
    parts = [((0, 0, 0), volume[:, :4]), ((4, 0, 0), volume[:, 4:, :3]), ((4, 3, 0), volume[:, 4:, 3:])]
    assert np.array_equal(Blocks((6, 5, 4), parts).whole(), volume)
