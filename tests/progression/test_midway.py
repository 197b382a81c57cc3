import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medray.errors import ImageError
from medray.progression.midway import midway, pairs_of, symmetric

SEEDS = st.integers(0, 2**32 - 1)


def drawn(rng, degrees=30.0, mm=40.0, stretch=0.03):
    """A head that was moved, and scanned by a scanner whose scale is off."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.normal(0, np.deg2rad(degrees) / 2, 3)).as_matrix() @ (
        np.eye(3) + rng.normal(0, stretch, (3, 3))
    )
    matrix[:3, 3] = rng.uniform(-mm, mm, 3)
    return matrix


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_exchanging_images_inverts_their_transform(seed):
    rng = np.random.default_rng(seed)
    there = drawn(rng)
    back = np.linalg.inv(there) @ drawn(rng, 1.0, 1.0, 0.001)
    assert np.allclose(symmetric(there, back) @ symmetric(back, there), np.eye(4), atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_a_pair_that_agrees_stays(seed):
    there = drawn(np.random.default_rng(seed))
    assert np.allclose(symmetric(there, np.linalg.inv(there)), there, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(2, 5))
def test_consistent_transforms_are_kept_and_nobody_is_preferred(seed, count):
    rng = np.random.default_rng(seed)
    places = [drawn(rng) for _ in range(count)]
    between = {(i, j): places[j] @ np.linalg.inv(places[i]) for i, j in pairs_of(count)}
    found = midway(between, count)
    for (i, j), matrix in between.items():
        assert np.allclose(found[j] @ np.linalg.inv(found[i]), matrix, atol=1e-5)
    order = rng.permutation(count)
    at = {int(old): new for new, old in enumerate(order)}
    turned = {}
    for (i, j), matrix in between.items():
        a, b = at[i], at[j]
        turned[min(a, b), max(a, b)] = matrix if a < b else np.linalg.inv(matrix)
    other = midway(turned, count)
    for old, new in at.items():
        assert np.allclose(other[new], found[old], atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_half_of_the_way_lies_on_each_side(seed):
    there = drawn(np.random.default_rng(seed))
    first, second = midway({(0, 1): there}, 2)
    assert np.allclose(first @ second, np.eye(4), atol=1e-6)
    assert np.linalg.det(first[:3, :3]) * np.linalg.det(second[:3, :3]) == pytest.approx(1, abs=1e-8)


def test_errors_of_pairs_are_shared_out():
    rng = np.random.default_rng(0)
    places = [drawn(rng) for _ in range(4)]
    noisy = {(i, j): drawn(rng, 0.5, 0.5, 0.001) @ places[j] @ np.linalg.inv(places[i]) for i, j in pairs_of(4)}
    found = midway(noisy, 4)
    points = rng.uniform(-80, 80, (100, 3))

    def off(matrix, truth):
        difference = points @ (matrix - truth)[:3, :3].T + (matrix - truth)[:3, 3]
        return np.linalg.norm(difference, axis=1).mean()

    alone, together = (
        np.mean([off(of[i, j], places[j] @ np.linalg.inv(places[i])) for i, j in noisy])
        for of in (noisy, {(i, j): found[j] @ np.linalg.inv(found[i]) for i, j in noisy})
    )
    assert together < alone


def test_one_that_is_joined_to_none():
    with pytest.raises(ImageError, match="time point 3"):
        midway({(0, 1): np.eye(4)}, 3)
