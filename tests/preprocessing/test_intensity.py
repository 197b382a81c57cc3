import numpy as np
import pytest

from medray import config
from medray.errors import ConfigError
from medray.preprocessing.intensity import Intensity, normalise


def test_mr_doesn_t_depend_on_its_unit(rng):
    voxels = rng.normal(100, 10, (1, 12, 12, 12)).astype(np.float32)
    voxels[:, :6] = 0
    assert np.allclose(normalise(voxels, Intensity()), normalise(voxels * 7, Intensity()), atol=1e-3)
    bright = normalise(voxels, Intensity())[voxels > voxels.mean()]
    assert abs(bright.mean()) < 1e-4
    assert abs(bright.std() - 1) < 1e-4


def test_ct_is_clipped_and_scaled():
    voxels = np.array([-2000.0, 0.0, 50.0, 5000.0], np.float32).reshape(1, 1, 1, 4)
    found = normalise(voxels, Intensity(method="window-zscore", window=(-100, 300), centre=50, width=100))
    assert found.ravel().tolist() == [-1.5, -0.5, 0.0, 2.5]


def test_a_constant_volume_stays_finite():
    assert np.isfinite(normalise(np.full((1, 3, 3, 3), 5, np.float32), Intensity())).all()


def test_impossible_windows_are_refused():
    with pytest.raises(ConfigError, match="must rise"):
        config.load(Intensity, {"window": [3, 1]}, what="the plan")
