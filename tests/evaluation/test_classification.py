import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from medray.evaluation.classification import (
    auc,
    calibration_bins,
    expected_calibration_error,
    sensitivity_at_specificity,
)

cases = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40)


@given(cases)
def test_auc_agrees_with_scikit_learn(found):
    values, present = zip(*found, strict=True)
    if len(set(present)) == 2:
        assert auc(values, present) == pytest.approx(roc_auc_score(present, values))
    else:
        assert math.isnan(auc(values, present))


@given(cases, st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_sensitivity_is_the_best_of_the_roc_curve(found, specificity):
    values, present = zip(*found, strict=True)
    if len(set(present)) < 2:
        assert math.isnan(sensitivity_at_specificity(values, present, specificity))
        return
    false, true, _ = roc_curve(present, values, drop_intermediate=False)
    best = max(t for f, t in zip(false, true, strict=True) if 1 - f >= specificity - 1e-9)
    assert sensitivity_at_specificity(values, present, specificity) == pytest.approx(best)


def test_calibrated_probabilities_have_no_error_and_confident_ones_do():
    rng = np.random.default_rng(0)
    values = rng.uniform(size=20_000)
    present = rng.uniform(size=values.size) < values
    assert expected_calibration_error(values, present) < 0.02
    assert expected_calibration_error((values > 0.5) * 0.98 + 0.01, present) > 0.2


def test_bins_count_every_case_once_the_edges_too():
    bins = calibration_bins([0.0, 0.05, 0.1, 1.0], [0, 1, 1, 1], bins=10)
    assert [item.count for item in bins] == [2, 1, 1]
    assert bins[0].predicted == 0.025
    assert bins[0].observed == 0.5
