"""Smooth displacements: undone exactly, found where they are known, and no time point preferred."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medray.imaging.volume import Volume
from medray.progression.register import itk_grid, itk_image
from medray.progression.warp import Warp, warps_of
from tests.progression.people import person, scanned

SHAPE, SPACING = (50, 50, 50), 4.0


def bump(height_mm, affine=None):
    """A displacement that is largest in the middle of a grid."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0]) if affine is None else affine
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")) - 24.5
    hill = np.exp(-(grid**2).sum(axis=0) / (2 * 6**2))
    return Warp((np.array(height_mm)[:, None, None, None] * hill).astype(np.float32), affine)


def test_what_is_moved_is_put_back():
    warp = bump((6.0, -4.0, 5.0))
    points = np.random.default_rng(0).uniform(20, 180, (200, 3))
    assert np.abs(warp.moved(points) - points).max() > 3
    assert warp.unmoved(warp.moved(points)) == pytest.approx(points, abs=1e-3)


def test_itk_moves_points_to_the_same_places():
    warp = bump((6.0, -4.0, 5.0))
    points = np.random.default_rng(1).uniform(20, 170, (20, 3))
    itk = warp.itk()
    assert np.array([itk.TransformPoint(point.tolist()) for point in points]) == pytest.approx(warp.moved(points), abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_bend_that_is_known_is_found_and_halved_between_both():
    image, mask = scanned(person(0)[0], 1)
    middle = np.array(mask.affine @ [*(np.array(mask.shape) / 2), 1.0])[:3]
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = middle - 24.5 * SPACING
    truth = bump((5.0, -4.0, 4.0), affine)
    bent = sitk.Resample(itk_image(image), itk_grid(image.affine, image.shape), truth.itk(), sitk.sitkLinear, 0.0)
    voxels = sitk.GetArrayFromImage(bent).transpose(2, 1, 0)[np.newaxis]
    images = [itk_image(image), itk_image(Volume(voxels, image.affine))]
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = middle - 100
    first, second = warps_of(images, [sitk.Transform(3, sitk.sitkIdentity)] * 2, grid, (101, 101, 101))
    assert np.abs(first.field_mm + second.field_mm).max() < 1e-4, "what they have in common is taken out"
    inside = np.argwhere(mask.voxels[0] > 0)[::199]
    points = inside @ image.affine[:3, :3].T + image.affine[:3, 3]  # of the second image
    found = first.moved(second.unmoved(points))  # in the first
    before = np.linalg.norm(truth.moved(points) - points, axis=1)
    after = np.linalg.norm(truth.moved(points) - found, axis=1)
    bent_most = before > 2
    assert after[bent_most].mean() < 0.5 * before[bent_most].mean()
