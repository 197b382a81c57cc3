import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.evaluation.calibration import Calibration, calibrated, fit_platt
from medray.evaluation.classification import auc, expected_calibration_error


def cases(rng, count, slope, offset):
    """Probabilities that a network says, of findings whose true log-odds are a line over the network's."""
    said = rng.normal(0, 2, count)
    true = 1 / (1 + np.exp(-(slope * said + offset)))
    return 1 / (1 + np.exp(-said)), rng.random(count) < true


@pytest.mark.parametrize(("slope", "offset"), [(0.4, 0.0), (1.0, -1.5), (2.5, 1.0)])
def test_it_finds_the_curve(rng, slope, offset):
    said, present = cases(rng, 4000, slope, offset)
    found = fit_platt(said, present)
    assert found.slope == pytest.approx(slope, rel=0.15)
    assert found.offset == pytest.approx(offset, abs=0.2)
    meant = [found(value) for value in said]
    assert expected_calibration_error(meant, present) < 0.4 * expected_calibration_error(said, present) + 0.01


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20))
def test_no_two_cases_change_places(found):
    values, present = (list(column) for column in zip(*found, strict=True))
    curve = fit_platt(values, present)
    assert curve.slope > 0
    meant = [curve(value) for value in values]
    assert all(0 <= value <= 1 for value in meant)
    for one, other in zip(np.argsort(values), np.argsort(values)[1:], strict=False):
        assert meant[one] <= meant[other] + 1e-12
    if len(set(present)) == 2:
        assert auc(meant, present) <= auc(values, present) + 1e-9 or len(set(meant)) < len(set(values))


def test_few_cases_don_t_say_too_much():
    assert fit_platt([0.9, 0.8], [True, True]) == Calibration(), "of one kind of case nothing can be said"
    curve = fit_platt([0.9, 0.1], [True, False])
    assert 0.6 < curve(0.9) < 0.97, "two cases don't make anybody sure"


def test_exclusive_findings_are_one_together():
    found = calibrated({"a": 0.7, "b": 0.2, "c": 0.1}, {"a": Calibration(slope=0.5, offset=-1.0)}, exclusive=True)
    assert sum(found.values()) == pytest.approx(1)
    assert found["b"] / found["c"] == pytest.approx(2)
    assert calibrated({"a": 0.7, "b": 0.7}, {}, exclusive=False) == {"a": 0.7, "b": 0.7}
