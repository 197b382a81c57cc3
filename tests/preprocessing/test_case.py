import numpy as np
import pytest

from medray.errors import ImageError
from medray.imaging.volume import Volume
from medray.preprocessing.case import prepare_image, prepare_mask
from medray.preprocessing.planning import plan
from tests.phantoms import grid, orientations, phantom


@pytest.fixture
def recipe(phantom_cohort):
    return plan(phantom_cohort)


def test_every_orientation_of_one_scan_prepares_to_the_same_voxels(recipe):
    base, mask = phantom(np.random.default_rng(0), grid(next(iter(orientations())), (2.0, 2.0, 2.5), (4, 5, 6)))
    expected = prepare_image(base, recipe)
    for orientation in orientations():
        turned = Volume(orientation.apply(base.voxels), orientation.apply_affine(base.affine, base.shape), base.meta)
        found = prepare_image(turned, recipe)
        assert np.allclose(found.affine, expected.affine, atol=1e-9)
        assert np.abs(found.voxels - expected.voxels).max() < 1e-4
        labels = prepare_mask(np.ascontiguousarray(orientation.apply(mask)), turned, recipe, found)
        assert np.array_equal(labels, prepare_mask(mask, base, recipe, expected))


def test_another_modality_is_refused(recipe):
    scan, _ = phantom(np.random.default_rng(0), np.diag([2.0, 2.0, 2.0, 1.0]))
    with pytest.raises(ImageError, match="the image is CT; the model was trained on MR"):
        prepare_image(Volume(scan.voxels, scan.affine, {"modality": "CT"}), recipe)
    prepare_image(Volume(scan.voxels, scan.affine, {}), recipe)


def test_an_absurd_grid_is_refused_before_it_is_made(recipe):
    with pytest.raises(ImageError, match="too-large"):
        prepare_image(Volume(np.zeros((1, 30, 30, 30), np.int16), np.diag([900.0, 900.0, 900.0, 1.0])), recipe)
