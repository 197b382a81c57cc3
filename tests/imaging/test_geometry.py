import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.errors import ImageError
from medray.imaging.geometry import (
    axis_codes,
    checked_affine,
    closest_lps,
    resampled_affine,
    resampled_shape,
    same_grid,
    spacing_mm,
    to_world,
)
from tests.phantoms import grid, orientations

SHAPE = (4, 5, 6)
angles = st.tuples(*[st.floats(-40, 40)] * 3)
spacings = st.tuples(*[st.floats(0.3, 5.0)] * 3)


@given(st.sampled_from(list(orientations())), angles, spacings)
def test_reorienting_moves_no_voxel_in_the_world(orientation, rotation, spacing):
    affine = grid(orientation, spacing, rotation)
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))
    world = to_world(affine, np.moveaxis(indices, 0, -1))
    found = closest_lps(affine)
    moved = found.apply_affine(affine, SHAPE)
    upright = found.apply(np.moveaxis(world, -1, 0))
    again = np.stack(np.meshgrid(*[np.arange(n) for n in upright.shape[1:]], indexing="ij"))
    assert np.allclose(np.moveaxis(upright, 0, -1), to_world(moved, np.moveaxis(again, 0, -1)), atol=1e-9)


@given(st.sampled_from(list(orientations())), angles, spacings)
def test_reorientation_and_its_inverse_cancel(orientation, rotation, spacing):
    affine = grid(orientation, spacing, rotation)
    found = closest_lps(affine)
    voxels = np.arange(np.prod(SHAPE)).reshape(1, *SHAPE)
    moved = found.apply(voxels)
    assert np.array_equal(found.inverse.apply(moved), voxels)
    back = found.inverse.apply_affine(found.apply_affine(affine, SHAPE), moved.shape[1:])
    assert np.allclose(back, affine)


@pytest.mark.parametrize("orientation", list(orientations()))
def test_reoriented_axes_run_to_lps(orientation):
    affine = grid(orientation, (1.0, 2.0, 3.0), (9, -7, 5))
    moved = closest_lps(affine).apply_affine(affine, SHAPE)
    assert axis_codes(moved) == "LPS"


def test_axis_codes_of_a_ras_grid():
    assert axis_codes(np.diag([-1.0, -1.0, 1.0, 1.0])) == "RAS"


@given(st.tuples(*[st.integers(1, 40)] * 3), spacings, spacings)
def test_resampling_keeps_the_outer_faces(shape, spacing, new_spacing):
    affine = grid(next(iter(orientations())), spacing, (3, 4, 5))
    new_shape = resampled_shape(shape, spacing, new_spacing)
    new = resampled_affine(affine, shape, new_shape)
    for corner in (-0.5, None):
        old_face = np.full(3, -0.5) if corner else np.array(shape) - 0.5
        new_face = np.full(3, -0.5) if corner else np.array(new_shape) - 0.5
        assert np.allclose(to_world(affine, old_face), to_world(new, new_face), atol=1e-6)
    assert np.allclose(resampled_affine(new, new_shape, shape), affine, atol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.0, 1.0, 0.0, 1.0]), np.eye(3), np.diag([1e9, 1.0, 1.0, 1.0])],
    ids=["zero", "nan", "flat", "3x3", "huge"],
)
def test_unusable_affines_are_refused(bad):
    with pytest.raises(ImageError) as caught:
        checked_affine(bad)
    assert caught.value.reason == "bad-affine"


def test_parallel_axes_are_refused():
    skewed = np.eye(4)
    skewed[:3, 1] = skewed[:3, 0]
    with pytest.raises(ImageError, match="singular"):
        checked_affine(skewed)


def test_same_grid_has_a_tolerance_in_mm():
    first = np.eye(4)
    second = first.copy()
    second[0, 3] = 0.005
    assert same_grid(first, second, (10, 10, 10))
    second[0, 3] = 0.02
    assert not same_grid(first, second, (10, 10, 10))
    assert spacing_mm(first) == (1.0, 1.0, 1.0)
