import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from medray.evaluation.fidelity import BANDS, describe, discrepancy, nearest, thumbnail

NAMES = {"left": 1, "right": 2}


def halves(shape=(24, 20, 16)):
    mask = np.ones(shape, np.uint8)
    mask[shape[0] // 2 :] = 2
    return mask


def test_means_and_textures_are_told_apart(rng):
    mask = halves()
    image = np.where(mask == 1, rng.normal(1, 0.1, mask.shape), rng.normal(1.2, 0.4, mask.shape)).astype(np.float32)[None]
    found = describe(image, mask, NAMES)
    assert found["left"].shape == (2 + BANDS,)
    assert found["left"][0] == pytest.approx(1, abs=0.02)
    assert found["right"][0] == pytest.approx(1.2, abs=0.02)
    assert found["right"][1] - found["left"][1] == pytest.approx(np.log(4), abs=0.1)
    assert found["right"][2] - found["left"][2] == pytest.approx(np.log(4), abs=0.15)
    smooth = np.stack([gaussian_filter(image[0], 1.0)])
    assert describe(smooth, mask, NAMES)["right"][2] < found["right"][2] - 1, "fine texture is gone"


def test_a_label_of_few_voxels_is_left_out():
    mask = halves()
    mask[0, 0, :3] = 3
    assert set(describe(np.zeros((1, *mask.shape), np.float32), mask, NAMES | {"dot": 3})) == {"left", "right"}


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), move=st.floats(-50, 50), stretch=st.floats(0.1, 10))
def test_the_discrepancy_doesn_t_depend_on_units(seed, move, stretch):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(12, 4)), rng.normal(size=(9, 4)) + 0.5
    changed = discrepancy(first * stretch + move, second * stretch + move)
    assert changed == pytest.approx(discrepancy(first, second), abs=1e-6)


def test_the_discrepancy_grows_with_the_difference(rng):
    first = rng.normal(size=(60, 3))
    found = [discrepancy(first, rng.normal(size=(60, 3)) + off) for off in (0, 1, 6)]
    assert abs(found[0]) < 0.05
    assert found[0] < found[1] < found[2]
    with pytest.raises(ValueError, match="two of each"):
        discrepancy(first[:1], first)


def test_a_copy_is_nearer_than_anybody_else(rng):
    shapes = [(24, 20, 16), (30, 22, 18), (26, 26, 20), (20, 20, 20)]
    images = [gaussian_filter(rng.normal(size=shape), 3).astype(np.float32)[None] for shape in shapes]
    known = np.stack([thumbnail(image) for image in images])
    assert np.allclose(np.linalg.norm(known, axis=1), 1)
    noisy = images[0] + rng.normal(0, 0.1 * images[0].std(), images[0].shape).astype(np.float32)
    assert nearest(thumbnail(noisy)[None], known)[0] > 0.95
    assert nearest(known, known, unless=np.eye(len(known), dtype=bool)).max() < 0.9
