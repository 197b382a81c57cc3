import numpy as np
import pytest

from medray.imaging.boxes import Box
from medray.inference.agreement import agreement
from medray.tasks.answer import Answer


def mask(*values):
    return Answer(mask=np.array(values, np.uint8).reshape(1, 1, 1, -1))


def box(at, label="a"):
    return Box(label, (at, 0, 0), (at + 2, 2, 2))


@pytest.mark.parametrize(
    ("one", "other", "values", "found"),
    [
        (mask(1, 1, 2, 0), mask(1, 0, 2, 0), {"a": 1, "b": 2}, {"a": 2 / 3, "b": 1}),
        (mask(0, 0), mask(0, 0), {"a": 1}, {}),
        (mask(0, 2), mask(0, 2), {"a": 1, "b": 2}, {"b": 1}),
        (mask(0, 1), mask(0, 0), {"a": 1}, {"a": 0}),
        (mask(0, 1), mask(0), {"a": 1}, {"a": 0}),
        (Answer(probabilities={"a": 0.9}), Answer(probabilities={"a": 0.6}), {}, {"a": 0.7}),
        (Answer(boxes=[box(0), box(9)]), Answer(boxes=[box(0.5)]), {}, {"a": 2 / 3}),
        (Answer(boxes=[box(0)]), Answer(boxes=[box(0, "b")]), {}, {"a": 0, "b": 0}),
        (Answer(), Answer(), {}, {}),
    ],
)
def test_what_agrees(one, other, values, found):
    assert agreement(one, other, values) == pytest.approx(found)
    assert agreement(other, one, values) == pytest.approx(found)


def test_regions_are_compared_channel_by_channel():
    some = Answer(mask=np.array([[[[1, 1]]], [[[0, 1]]]], np.uint8))
    others = Answer(mask=np.array([[[[1, 0]]], [[[0, 1]]]], np.uint8))
    assert agreement(some, others, {"whole": 1, "core": 1}) == pytest.approx({"whole": 2 / 3, "core": 1})
