"""Smooth displacements: undone exactly, found where they are known, and no time point preferred."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.progression.align import align
from medray.progression.register import itk_grid, itk_image
from medray.progression.warp import Warp, warps_of
from tests.progression.people import motion, person, scanned

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


@pytest.fixture(scope="module")
def head():
    """One person, scanned twice in one position: grids, contrasts, bias and noise differ."""
    subject = person(0)[0]
    return scanned(subject, 1), scanned(subject, 2)


def grid_around(mask, spacing, sides):
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = middle_of(mask) - (np.array(sides) - 1) / 2 * spacing
    return affine


def middle_of(mask):
    return np.array(mask.affine @ [*(np.array(mask.shape) / 2), 1.0])[:3]


def points_in(mask):
    inside = np.argwhere(mask.voxels[0] > 0)[::199]
    return inside @ mask.affine[:3, :3].T + mask.affine[:3, 3]


def warps_between(images, mask):
    still = [sitk.Transform(3, sitk.sitkIdentity)] * len(images)
    return warps_of([itk_image(image) for image in images], still, grid_around(mask, 2.0, (101, 101, 101)), (101, 101, 101))


@pytest.mark.slow
def test_a_bend_that_is_known_is_found_and_halved_between_both(head):
    (image, mask), (other, _) = head
    truth, moved = bump((5.0, -4.0, 4.0), grid_around(mask, SPACING, SHAPE)), motion((4, -3, 5), (6, -4, 5))
    bent = sitk.Resample(itk_image(other), itk_grid(other.affine, other.shape), truth.itk(), sitk.sitkLinear, 0.0)
    later = Volume(sitk.GetArrayFromImage(bent).transpose(2, 1, 0)[np.newaxis], moved @ other.affine)
    points = points_in(mask)  # of the bent image, before it was moved
    where = truth.moved(points)  # they lie in the first one

    stiff, soft = (align([image, later], ["one", "two"], warp=warp) for warp in (False, True))
    before, after = (np.linalg.norm(found.carried(1, 0, to_world(moved, points)) - where, axis=1) for found in (stiff, soft))
    bent_most = before > 2
    assert bent_most.sum() > 100
    assert after[bent_most].mean() < 0.25 * before[bent_most].mean()
    assert after[~bent_most].mean() < 0.6
    first, second = soft.warps
    assert np.abs(first.field_mm + second.field_mm).max() < 1e-3, "what they have in common is taken out"
    for warp in soft.warps:
        slopes = np.stack([np.stack([np.gradient(axis, 2.0, axis=along) for along in range(3)]) for axis in warp.field_mm])
        assert np.linalg.det(slopes.transpose(2, 3, 4, 0, 1) + np.eye(3)).min() > 0, "nothing folds"


@pytest.mark.slow
def test_what_is_not_bent_stays(head):
    (image, mask), (other, _) = head
    first, second = warps_between([image, other], mask)
    points = points_in(mask)
    assert np.median(np.linalg.norm(first.moved(second.unmoved(points)) - points, axis=1)) < 0.4


def test_images_that_show_nothing_are_not_bent():
    nothing = Volume(np.zeros((1, 30, 30, 30), np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    still = [sitk.Transform(3, sitk.sitkIdentity)] * 3
    for warp in warps_of([itk_image(nothing)] * 3, still, np.diag([4.0, 4.0, 4.0, 1.0]), (30, 30, 30)):
        assert np.abs(warp.field_mm).max() == 0
