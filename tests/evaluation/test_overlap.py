import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medray.evaluation.overlap import dice

masks = hnp.arrays(np.uint8, (3, 3, 3), elements=st.integers(0, 3))


@given(masks, masks)
def test_symmetric_and_between_0_and_1(first, second):
    labels = {"a": 1, "b": 2}
    found, other = dice(first, second, labels), dice(second, first, labels)
    for name in labels:
        assert np.isnan(found[name]) == np.isnan(other[name])
        if not np.isnan(found[name]):
            assert found[name] == other[name]
            assert 0 <= found[name] <= 1


def test_by_hand():
    truth = np.array([[[1, 1, 2, 0]]], np.uint8)
    predicted = np.array([[[1, 2, 2, 0]]], np.uint8)
    assert dice(predicted, truth, {"a": 1, "b": 2, "c": 3})["a"] == pytest.approx(2 / 3)
    assert dice(truth, truth, {"a": 1})["a"] == 1
    assert np.isnan(dice(truth, truth, {"c": 3})["c"])
