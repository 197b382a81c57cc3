import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medray.imaging.volume import Volume
from medray.progression.lesions import found_in, matched

STILL = [np.eye(4)] * 3


def balls(*places, shape=(40, 40, 40), affine=None):
    """A mask of balls: (centre in voxels, radius in mm)."""
    affine = np.eye(4) if affine is None else affine
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    inside = np.zeros(shape, bool)
    for centre, radius in places:
        inside |= np.linalg.norm((grid - centre) @ affine[:3, :3].T, axis=-1) <= radius
    return Volume(inside[None].astype(np.uint8), affine)


def counts(tracks):
    return [tuple(len(pieces) for pieces in track.lesions) for track in tracks]


def test_pieces_are_found_the_largest_first_and_specks_left_out():
    mask = balls(((10, 10, 10), 3), ((25, 25, 25), 5), ((35, 5, 5), 1))
    found = found_in(mask, 0)
    assert [round(one.volume_mm3) for one in found] == [515, 123]
    assert found[0].centre == pytest.approx([25, 25, 25])
    assert [one.number for one in found] == [1, 2]


def test_volumes_are_in_mm_on_any_grid():
    affine = np.diag([0.5, 2.0, 1.5, 1.0])
    [found] = found_in(balls(((20, 20, 20), 9), affine=affine), 0)
    assert found.volume_mm3 == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.02)


def test_new_vanished_split_and_merged():
    first = balls(((8, 8, 8), 4), ((30, 30, 30), 4), ((20, 8, 30), 4), ((26, 8, 30), 4))
    second = balls(((8, 6, 8), 3), ((8, 14, 8), 3), ((8, 30, 8), 4), ((20, 8, 30), 4), ((29, 8, 30), 3))
    tracks = matched([found_in(first, 0), found_in(second, 1)], STILL[:2])
    assert sorted(counts(tracks)) == [(0, 1), (1, 0), (1, 2), (1, 2)]


def test_one_that_is_missed_once_is_still_one():
    there, nothing = balls(((20, 20, 20), 4)), balls()
    tracks = matched([found_in(there, 0), found_in(nothing, 1), found_in(there, 2)], STILL)
    assert counts(tracks) == [(1, 0, 1)]


def test_near_by_is_the_same_where_nothing_overlaps():
    one, other = balls(((10, 20, 20), 2)), balls(((15, 20, 20), 2))
    assert counts(matched([found_in(one, 0), found_in(other, 1)], STILL[:2])) == [(1, 1)]
    assert counts(matched([found_in(one, 0), found_in(other, 1)], STILL[:2], near_mm=0.0)) == [(1, 0), (0, 1)]
    both = balls(((10, 20, 20), 2), ((16, 20, 20), 2))
    assert counts(matched([found_in(one, 0), found_in(both, 1)], STILL[:2])) == [(1, 1), (0, 1)], (
        "the new one is near an old one"
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_other_grids_and_positions_change_nothing(seed):
    rng = np.random.default_rng(seed)
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.3, 3)).as_matrix()
    moved[:3, 3] = rng.uniform(-30, 30, 3)
    first = balls(((10, 10, 10), 4), ((30, 28, 12), 5))
    coarse = np.diag([1.3, 0.9, 1.6, 1.0])
    second = balls(
        *(((np.array(at) / np.diag(coarse)[:3]), radius) for at, radius in (((10, 10, 10), 4), ((30, 28, 12), 5))),
        affine=coarse,
    )
    second = Volume(second.voxels, moved @ second.affine)
    tracks = matched([found_in(first, 0), found_in(second, 1)], [np.eye(4), moved])
    assert counts(tracks) == [(1, 1), (1, 1)]
    for track in tracks:
        assert track.volumes_mm3[1] == pytest.approx(track.volumes_mm3[0], rel=0.1)


def test_no_lesions_at_all():
    assert matched([found_in(balls(), 0), found_in(balls(), 1)], STILL[:2]) == []
