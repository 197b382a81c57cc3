import numpy as np
import pytest

from medray.cohort.fingerprint import measure
from medray.imaging.volume import Volume
from tests.phantoms import LABELS


def test_statistics_are_those_of_the_labelled_voxels(rng):
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[:5] = 4
    voxels = np.where(mask == 4, 100, 0).astype(np.int16)
    found = measure(Volume(voxels[None], np.eye(4)), mask, LABELS)
    assert found.mean == pytest.approx(100)
    assert found.deviation == pytest.approx(0)
    assert list(found.percentiles) == [100, 100, 100]
    assert found.label_voxels == {"ball": 0, "core": 500}


def test_without_labels_the_bright_voxels_count():
    voxels = np.zeros((1, 10, 10, 10), np.int16)
    voxels[0, :2] = 50
    assert measure(Volume(voxels, np.eye(4)), None, None).mean == 50


def test_a_constant_volume_is_measured_too():
    assert measure(Volume(np.full((1, 4, 4, 4), 7), np.eye(4)), None, None).mean == 7


def test_the_cohort_s_fingerprint_is_medians(phantom_cohort):
    found = phantom_cohort.index.fingerprint
    assert found.series == 9
    assert found.modalities == {"MR": 9}
    assert np.allclose(sorted(found.spacing_mm), [2.0, 2.0, 2.0], atol=0.6)
    assert abs(sum(found.label_share.values()) - 1) < 0.02
