import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.progression.change import fate_of
from medray.progression.lesions import cut_off, found_in, matched


def still(first, second, points):
    return points


def moving(*matrices):
    """Carry points as time points were moved."""
    return lambda first, second, points: to_world(matrices[second], to_world(np.linalg.inv(matrices[first]), points))


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
    mask = balls(((10, 10, 10), 3), ((25, 25, 25), 5), ((35, 5, 5), 0.5))
    found = found_in(mask, 0).lesions
    assert [round(one.volume_mm3) for one in found] == [515, 123]
    assert found[0].centre == pytest.approx([25, 25, 25])
    assert [one.number for one in found] == [1, 2]


def test_volumes_are_in_mm_on_any_grid():
    affine = np.diag([0.5, 2.0, 1.5, 1.0])
    [found] = found_in(balls(((20, 20, 20), 9), affine=affine), 0).lesions
    assert found.volume_mm3 == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.02)


def test_new_vanished_split_and_merged():
    first = balls(((8, 8, 8), 4), ((30, 30, 30), 4), ((20, 8, 30), 4), ((26, 8, 30), 4))
    second = balls(((8, 6, 8), 3), ((8, 13, 8), 2.5), ((8, 30, 8), 4), ((20, 8, 30), 4), ((29, 8, 30), 3))
    tracks = matched([found_in(first, 0), found_in(second, 1)], still)
    assert sorted(counts(tracks)) == [(0, 1), (1, 0), (1, 2), (1, 2)]


def test_one_that_is_missed_once_is_still_one():
    there, nothing = balls(((20, 20, 20), 4)), balls()
    tracks = matched([found_in(there, 0), found_in(nothing, 1), found_in(there, 2)], still)
    assert counts(tracks) == [(1, 0, 1)]


def test_near_by_is_the_same_where_nothing_overlaps():
    one, other = balls(((10, 20, 20), 2)), balls(((15, 20, 20), 2))
    assert counts(matched([found_in(one, 0), found_in(other, 1)], still)) == [(1, 1)]
    assert counts(matched([found_in(one, 0), found_in(other, 1)], still, near_mm=0.0)) == [(1, 0), (0, 1)]
    both = balls(((10, 20, 20), 2), ((16, 20, 20), 2))
    assert counts(matched([found_in(one, 0), found_in(both, 1)], still)) == [(1, 1), (0, 1)], "the new one is near an old one"


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
    tracks = matched([found_in(first, 0), found_in(second, 1)], moving(np.eye(4), moved))
    assert counts(tracks) == [(1, 1), (1, 1)]
    for track in tracks:
        assert track.volumes_mm3[1] == pytest.approx(track.volumes_mm3[0], rel=0.1)


def test_no_lesions_at_all():
    assert matched([found_in(balls(), 0), found_in(balls(), 1)], still) == []


def boxes(*places, shape=(30, 30, 30), affine=None):
    """A mask of boxes: (first corner, sides), in voxels."""
    inside = np.zeros((1, *shape), np.uint8)
    for corner, sides in places:
        inside[0][tuple(slice(a, a + n) for a, n in zip(corner, sides, strict=True))] = 1
    return Volume(inside, np.eye(4) if affine is None else affine)


def test_thin_pixels_in_thick_slices_keep_neighbours_apart():
    affine = np.diag([0.7, 0.7, 5.0, 1.0])
    mask = boxes(((5, 5, 10), (6, 6, 2)), ((13, 5, 10), (6, 6, 2)), affine=affine)
    assert counts(matched([found_in(mask, 0), found_in(mask, 1)], still)) == [(1, 1), (1, 1)]


def test_what_neighbours_share_by_misalignment_makes_them_not_one():
    first = boxes(((2, 5, 5), (10, 8, 8)), ((13, 5, 5), (10, 8, 8)))
    second = boxes(((1, 5, 5), (10, 8, 8)), ((12, 5, 5), (10, 8, 8)))
    assert counts(matched([found_in(first, 0), found_in(second, 1)], still)) == [(1, 1), (1, 1)]


def test_who_is_alone_is_so_at_each_time_point():
    first, second = boxes(((5, 5, 5), (4, 4, 4))), boxes(((5, 5, 5), (4, 4, 4)))
    third = boxes(((10, 5, 5), (4, 4, 4)))
    assert counts(matched([found_in(first, 0), found_in(second, 1), found_in(third, 2)], still)) == [(1, 1, 1)]


@pytest.mark.parametrize(("before", "after", "seen"), [(8, 12, [(1, 1)]), (4, 12, [(0, 1)]), (8, 8, []), (27, 6, [(1, 1)])])
def test_small_lesions_do_not_come_and_go_at_one_limit(before, after, seen):
    masks = [boxes(((5, 5, 5), (1, 1, length))) for length in (before, after)]
    assert counts(matched([found_in(mask, at) for at, mask in enumerate(masks)], still)) == seen


def test_a_faint_piece_beside_a_lesion_is_no_split():
    first, second = boxes(((5, 5, 5), (4, 4, 8))), boxes(((5, 5, 5), (4, 4, 5)), ((5, 5, 11), (1, 3, 2)))
    assert counts(matched([found_in(first, 0), found_in(second, 1)], still)) == [(1, 1)]


def test_what_a_scan_does_not_show_has_not_vanished():
    whole = boxes(((5, 5, 5), (4, 4, 4)), ((5, 5, 20), (4, 4, 6)))
    upper = Volume(whole.voxels[..., :22], whole.affine)
    tracks = matched([found_in(whole, 0), found_in(upper, 1)], still)
    assert [sorted(track.unseen) for track in tracks] == [[1], []]
    assert [fate_of(track, 0, 1) for track in tracks] == ["unseen", "stable"]


def test_a_scan_that_cuts_a_structure_off_says_so():
    whole = balls(((20, 20, 20), 15))
    cut = Volume(whole.voxels[:, :28].copy(), whole.affine)
    points = [found_in(mask, at) for at, mask in enumerate((whole, cut, whole))]
    assert list(cut_off(points, lambda first, second, there: there)) == [1]
    assert list(cut_off([points[0], points[2]], lambda first, second, there: there)) == []


def test_a_thousand_lesions_are_matched():
    rng = np.random.default_rng(0)
    places = [(tuple(at), (3, 3, 3)) for at in np.argwhere(np.ones((10, 10, 10))) * 8 + rng.integers(0, 3, (1000, 3))]
    mask = boxes(*places, shape=(90, 90, 90))
    tracks = matched([found_in(mask, 0), found_in(mask, 1), found_in(mask, 2)], still)
    assert len(tracks) == 1000
    assert all(count == (1, 1, 1) for count in counts(tracks))
