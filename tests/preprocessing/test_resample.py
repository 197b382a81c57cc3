import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medray.imaging.volume import Volume
from medray.preprocessing.resample import resample, resampled_volume

shapes = st.tuples(*[st.integers(3, 40)] * 3)


@settings(deadline=None)
@given(shapes, shapes, st.sampled_from([1, 3]), st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_equals_scipy_for_every_memory_order_and_flip(shape, new_shape, order, axes, flips):
    voxels = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    view = voxels.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    factors = [m / n for n, m in zip(view.shape, new_shape, strict=True)]
    expected = ndimage.zoom(view, factors, order=order, mode="nearest", grid_mode=True)
    found = resample(view[None], new_shape, order=order)[0]
    assert found.shape == new_shape
    assert np.abs(found - expected).max() < 2e-4


@settings(deadline=None)
@given(shapes, shapes)
def test_order_0_gives_only_values_that_were_there(shape, new_shape):
    voxels = np.random.default_rng(1).integers(0, 9, (1, *shape)).astype(np.int16)
    assert set(np.unique(resample(voxels, new_shape, order=0))) <= set(np.unique(voxels).astype(np.float32))


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_constant_stays_constant(order):
    assert np.allclose(resample(np.full((2, 7, 8, 9), 5.0), (13, 3, 9), order=order), 5.0, atol=1e-5)


def test_same_shape_is_the_identity(rng):
    voxels = rng.normal(size=(1, 5, 6, 7)).astype(np.float32)
    assert np.array_equal(resample(voxels, (5, 6, 7), order=3), voxels)


def test_a_smooth_volume_comes_back():
    grid = np.stack(np.meshgrid(*[np.linspace(0, np.pi, n) for n in (40, 36, 44)], indexing="ij"))
    smooth = np.cos(grid).sum(axis=0)[None].astype(np.float32)
    back = resample(resample(smooth, (30, 30, 30), order=3), smooth.shape[1:], order=3)
    assert np.abs(back - smooth).max() < 0.05


def test_volumes_keep_their_field_of_view():
    volume = Volume(np.zeros((1, 10, 10, 10)), np.diag([1.0, 1.0, 2.0, 1.0]))
    found = resampled_volume(volume, (2.0, 2.0, 2.0), order=1)
    assert found.shape == (5, 5, 10)
    assert np.allclose(found.spacing_mm, 2.0)
    assert np.allclose(found.affine[:3, 3], [0.5, 0.5, 0.0])


@settings(deadline=None, max_examples=30)
@given(shapes, shapes, st.sampled_from([1, 3]))
def test_antialiasing_equals_smoothing_first(shape, new_shape, order):
    voxels = np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)
    sigma = [max(0.0, (n / m - 1) / 2) for n, m in zip(shape, new_shape, strict=True)]
    smooth = ndimage.gaussian_filter(voxels.astype(np.float64), sigma, mode="nearest")
    factors = [m / n for n, m in zip(shape, new_shape, strict=True)]
    expected = ndimage.zoom(smooth, factors, order=order, mode="nearest", grid_mode=True)
    assert np.abs(resample(voxels[None], new_shape, order=order, antialias=True)[0] - expected).max() < 3e-4


def test_antialiasing_tames_what_the_new_grid_can_t_hold():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (1, 60, 60, 30))
    plain, smooth = (resample(stripes, (60, 60, 14), order=1, antialias=how) for how in (False, True))
    assert smooth.std() < 0.3 * plain.std()
    assert abs(smooth.mean() - 0.5) < 0.01
