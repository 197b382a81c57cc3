import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from medray.evaluation.overlap import overlap

masks = hnp.arrays(np.bool_, (3, 3, 3))


@given(masks, masks)
def test_symmetric_and_between_0_and_1(first, second):
    found, other = overlap(first, second).dice, overlap(second, first).dice
    assert np.isnan(found) == np.isnan(other)
    if not np.isnan(found):
        assert found == other
        assert 0 <= found <= 1


def test_by_hand():
    truth = np.array([[[True, True, False, False]]])
    predicted = np.array([[[True, False, False, False]]])
    assert overlap(predicted, truth).dice == pytest.approx(2 / 3)
    assert overlap(predicted, truth).volume_error == -0.5
    assert overlap(truth, truth).dice == 1
    assert np.isnan(overlap(truth & False, truth & False).dice)
    assert overlap(truth, truth & False).dice == 0
    assert np.isnan(overlap(truth, truth & False).volume_error)
