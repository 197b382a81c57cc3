import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.preprocessing.resample import resample
from medray.preprocessing.resample_labels import resample_labels

shapes = st.tuples(*[st.integers(1, 30)] * 3)


def by_indicators(mask, shape):
    """What it means, written down: every label's indicator resampled, the largest wins."""
    best, result = np.full(shape, -1.0, np.float32), np.zeros(shape, np.uint8)
    for value in np.unique(mask):
        share = resample((mask == value)[None].astype(np.float32), shape, order=1)[0]
        wins = share > best + 1e-6
        best[wins], result[wins] = share[wins], value
    return result, best


@settings(deadline=None)
@given(shapes, shapes, st.integers(1, 5), st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3), st.integers(0, 9))
def test_equals_the_indicators_for_every_memory_order_and_flip(shape, new_shape, labels, axes, flips, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 3, 7, 100, 255][:labels], [max(1, n // 3) for n in shape]).astype(np.uint8)
    mask = coarse[np.ix_(*[np.arange(n) * m // n for n, m in zip(shape, coarse.shape, strict=True)])]
    view = mask.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    expected, best = by_indicators(view, new_shape)
    found = resample_labels(view, new_shape)
    runner_up = np.zeros(new_shape, np.float32)
    for value in np.unique(view):
        share = resample((view == value)[None].astype(np.float32), new_shape, order=1)[0]
        runner_up = np.where(expected == value, runner_up, np.maximum(runner_up, share))
    clear = best - runner_up > 1e-4
    assert np.array_equal(found[clear], expected[clear])
    assert set(np.unique(found)) <= set(np.unique(mask))


def test_labels_survive_a_round_trip():
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[8:30, 10:30, 5:35] = 3
    mask[15:22, 15:22, 15:22] = 9
    back = resample_labels(resample_labels(mask, (32, 30, 35)), mask.shape)
    assert set(np.unique(back)) == {0, 3, 9}
    assert (back == mask).mean() > 0.97


def test_nearest_labels_are_labels(rng):
    mask = rng.choice([0, 3, 200], (17, 18, 19)).astype(np.uint8)
    found = resample_labels(mask, (30, 9, 25), method="nearest")
    assert set(np.unique(found)) == {0, 3, 200}
    i, j, k = (
        np.clip(np.rint((np.arange(m) + 0.5) * n / m - 0.5), 0, n - 1).astype(int)
        for n, m in zip(mask.shape, found.shape, strict=True)
    )
    assert np.array_equal(found, mask[np.ix_(i, j, k)])
