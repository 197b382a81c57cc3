import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.imaging.boxes import Box
from medray.imaging.geometry import to_world
from tests.phantoms import grid, orientations

SHAPE = (9, 7, 5)
spans = st.tuples(*[st.tuples(st.integers(0, n - 1), st.integers(1, n)).filter(lambda p: p[0] < p[1]) for n in SHAPE])


def painted(span):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*pair) for pair in span)] = True
    return mask


def around(mask):
    """The box of all that is set."""
    found = np.argwhere(mask)
    low, high = found.min(axis=0) - 0.5, found.max(axis=0) + 0.5
    return Box("x", tuple(low.tolist()), tuple(high.tolist()))


@given(spans, st.sampled_from(list(orientations())))
def test_a_box_turns_with_its_image(span, orientation):
    box = around(painted(span))
    turned = around(orientation.apply(painted(span)))
    assert box.reoriented(orientation, SHAPE) == turned
    i, j, k = (SHAPE[axis] for axis in orientation.axes)
    assert turned.reoriented(orientation.inverse, (i, j, k)) == box


@given(spans)
def test_a_box_of_a_finer_image_is_the_same_box(span):
    fine = painted(span).repeat(2, 0).repeat(3, 1)
    box = around(painted(span)).scaled(SHAPE, (18, 21, 5))
    assert np.allclose((box.low, box.high), (around(fine).low, around(fine).high))


def test_plain_boxes_are_in_lps_mm():
    affine = grid(next(iter(orientations())), (2.0, 1.0, 3.0), (5, 0, 10))
    box = around(painted(((2, 5), (1, 3), (0, 4))))
    plain = box.plain(affine)
    assert plain["size_mm"] == [6.0, 2.0, 12.0]
    assert plain["centre_mm"] == pytest.approx(to_world(affine, [3, 1.5, 1.5]).tolist(), abs=0.01)
    assert plain["label"] == "x"
