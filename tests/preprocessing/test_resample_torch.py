import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.preprocessing.resample import resample
from medray.preprocessing.resample_torch import onto_grid, resample_tensor
from tests.phantoms import grid, orientations

shapes = st.tuples(*[st.integers(3, 30)] * 3)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=30)
@given(shapes, shapes, st.sampled_from([0, 1, 3]), st.booleans())
def test_a_device_gives_what_the_matrices_give(device, shape, new_shape, order, antialias):
    voxels = np.random.default_rng(1).uniform(-1, 1, (2, *shape)).astype(np.float32)
    found = resample_tensor(torch.from_numpy(voxels).to(device), new_shape, order=order, antialias=antialias)
    assert np.abs(found.cpu().numpy() - resample(voxels, new_shape, order=order, antialias=antialias)).max() < 1e-4


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(list(orientations())), st.tuples(*[st.floats(-40, 40)] * 3), st.sampled_from(["linear", "nearest"]))
def test_any_grid_equals_scipy(orientation, rotation, method):
    rng = np.random.default_rng(2)
    volume = Volume(rng.normal(size=(1, 14, 15, 16)).astype(np.float32), grid(orientation, (1.0, 1.3, 2.0)))
    target = grid(next(iter(orientations())), (1.7, 1.1, 1.4), rotation, (-45, 20, 5))
    found = onto_grid(volume, target, (18, 20, 17), method=method, outside=-9.0)
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in found.shape], indexing="ij"), axis=-1)
    inverse = np.linalg.inv(volume.affine).astype(np.float64)
    places = to_world(inverse, to_world(target, indices))
    inside = ((places >= 0) & (places <= np.array(volume.shape) - 1)).all(axis=-1)
    expected = map_coordinates(
        volume.voxels[0], np.moveaxis(places, -1, 0), order=1 if method == "linear" else 0, mode="nearest"
    )
    clear = (np.abs(places - np.rint(places)).min(axis=-1) > 1e-3) & (np.abs(places % 1 - 0.5).min(axis=-1) > 1e-3)
    assert np.abs(found.voxels[0] - expected)[inside & clear].max(initial=0) < 1e-3
    outside = ((places < -1e-3) | (places > np.array(volume.shape) - 1 + 1e-3)).any(axis=-1)
    assert (found.voxels[0][outside] == -9.0).all()


def test_its_own_grid_is_the_identity(rng):
    volume = Volume(rng.integers(0, 9, (1, 5, 6, 1)).astype(np.uint8), np.diag([1.0, 2.0, 3.0, 1.0]))
    found = onto_grid(volume, volume.affine, volume.shape, method="nearest")
    assert np.array_equal(found.voxels, volume.voxels)
    assert found.voxels.dtype == np.uint8
