"""Alignment of real anatomy that was moved by known amounts."""

import numpy as np
import pytest

from medray.errors import ImageError
from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.progression.align import align
from tests.progression.people import motion, person, scanned

pytestmark = pytest.mark.slow

MOVED = motion((15, -15, 15), (20, -20, 20), 1.02)


def aligned_of(images, **options):
    return align(images, [f"scan {number}" for number in range(len(images))], **options)


def misaligned_mm(matrix, truth, mask):
    places = to_world(mask.affine, np.argwhere(mask.voxels[0])[::53])
    return np.linalg.norm(to_world(matrix, places) - to_world(truth, places), axis=1).mean()


@pytest.fixture(scope="module")
def scans():
    first, second = person(0)
    return scanned(first, 1), scanned(second, 2, MOVED)


@pytest.fixture(scope="module")
def aligned(scans):
    return aligned_of([image for image, _ in scans])


def test_a_head_that_was_turned_and_shifted_is_found(scans, aligned):
    spacing = min(scans[1][0].spacing_mm)
    assert misaligned_mm(aligned.between(0, 1), MOVED, scans[0][1]) < 0.5 * spacing
    assert aligned.scale(0, 1) == pytest.approx(1.02, abs=0.004)
    [fit] = aligned.pairs.values()
    assert fit.likeness > 0.5
    assert fit.inconsistent_mm < 1.0


def test_which_comes_first_makes_no_difference(scans, aligned):
    other = aligned_of([image for image, _ in reversed(scans)])
    assert np.allclose(other.between(0, 1) @ aligned.between(0, 1), np.eye(4), atol=1e-5)
    assert other.shape == aligned.shape


def test_the_common_space_lies_midway(scans, aligned):
    places = to_world(scans[0][1].affine, np.argwhere(scans[0][1].voxels[0])[::997])
    middle = to_world(np.linalg.inv(aligned.matrices[0]), places)
    ways = [np.linalg.norm(to_world(matrix, middle) - middle, axis=1).mean() for matrix in aligned.matrices]
    assert ways[0] == pytest.approx(ways[1], rel=0.02)


def test_images_are_sampled_there(scans, aligned):
    grid = aligned.affine, aligned.shape
    tissue = [aligned.sampled(at, mask, *grid, order=0) > 0 for at, (_, mask) in enumerate(scans)]
    dice = 2 * (tissue[0] & tissue[1]).sum() / (tissue[0].sum() + tissue[1].sum())
    assert dice > 0.95
    centre = to_world(aligned.affine, np.array(aligned.shape) // 2)
    image, matrix = scans[0][0], aligned.matrices[0]
    at = np.round(to_world(np.linalg.inv(image.affine), to_world(matrix, centre))).astype(int)
    nearest = aligned.sampled(0, image, *grid, order=0)[tuple(np.array(aligned.shape) // 2)]
    assert nearest == image.voxels[(0, *at)]


def test_three_time_points_agree(scans):
    first, later = person(0)
    third = motion((-10, 5, 0), (0, 15, -5))
    images = [scans[0][0], scans[1][0], scanned(later, 3, third)[0]]
    found = aligned_of(images)
    assert misaligned_mm(found.between(0, 2), third, scans[0][1]) < 0.6
    assert misaligned_mm(found.between(0, 1), MOVED, scans[0][1]) < 0.6
    assert first.lesions


def test_noise_and_colours_are_refused(scans):
    noise = Volume(np.random.default_rng(0).normal(100, 20, (1, 90, 90, 60)).astype(np.float32), np.diag([2.0, 2, 3, 1]))
    with pytest.raises(ImageError, match="too little in common"):
        aligned_of([scans[0][0], noise])
    with pytest.raises(ImageError, match="too thin"):
        aligned_of([scans[0][0], Volume(np.random.default_rng(0).random((1, 50, 50, 1), np.float32), np.eye(4))])
    with pytest.raises(ImageError, match="shows nothing"):
        aligned_of([scans[0][0], Volume(np.ones((1, 50, 50, 50), np.float32), np.eye(4))])
    with pytest.raises(ImageError, match="one channel"):
        aligned_of([scans[0][0], Volume(np.arange(3 * 9**3, dtype=np.int16).reshape(3, 9, 9, 9), np.eye(4))])
