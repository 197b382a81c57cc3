import numpy as np
import pytest

from medray.errors import ImageError
from medray.imaging.volume import Volume
from tests.phantoms import grid, orientations


def test_shape_and_affine_are_checked():
    with pytest.raises(ImageError, match="bad-shape"):
        Volume(np.zeros((3, 3, 3)), np.eye(4))
    with pytest.raises(ImageError, match="bad-shape"):
        Volume(np.zeros((1, 3, 0, 3)), np.eye(4))
    with pytest.raises(ImageError, match="bad-affine"):
        Volume(np.zeros((1, 3, 3, 3)), np.zeros((4, 4)))


def test_nan_voxels_are_refused_and_counted():
    voxels = np.zeros((1, 2, 2, 2), np.float32)
    voxels[0, 0, 0, 0] = np.nan
    with pytest.raises(ImageError, match="1 of 8 voxels"):
        Volume(voxels, np.eye(4)).checked_finite()


def test_large_finite_sums_are_not_refused():
    voxels = np.full((1, 8, 8, 8), 3e38, np.float32)
    assert Volume(voxels, np.eye(4)).checked_finite().shape == (8, 8, 8)


def test_reoriented_is_a_view_with_the_same_spacing_set():
    affine = grid(list(orientations())[29], (1.0, 2.0, 3.0))
    volume = Volume(np.arange(24.0).reshape(1, 2, 3, 4), affine)
    upright = volume.reoriented()
    assert np.shares_memory(upright.voxels, volume.voxels)
    assert sorted(upright.spacing_mm) == [1.0, 2.0, 3.0]
    assert upright.voxel_ml == pytest.approx(0.006)
