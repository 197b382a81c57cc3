"""How far experts agree: against published examples and a second source."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from medray.annotation.agreement import cohens_kappa, disagreement, fleiss_kappa, krippendorffs_alpha, pairs_of

NONE = None
RELIABILITY = [  # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section D: 4 observers, 12 units
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]
UNITS = [[None if choice is None else choice - 1 for choice in unit] for unit in zip(*RELIABILITY, strict=True)]


@pytest.mark.parametrize(("scale", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(scale, alpha):
    assert krippendorffs_alpha(UNITS, 5, scale=scale) == pytest.approx(alpha, abs=5e-4)


def test_fleiss_own_example():
    """Fleiss (1971), table 1: 30 patients, 6 psychiatrists, 5 diagnoses; kappa 0.430."""
    rows = """0 0 0 6 0|0 3 0 0 3|0 1 4 0 1|0 0 0 0 6|0 3 0 3 0|2 0 4 0 0|0 0 4 0 2|2 0 3 1 0|2 0 0 4 0|0 0 0 0 6
1 0 0 5 0|1 1 0 4 0|0 3 3 0 0|1 0 0 5 0|0 2 0 3 1|0 0 5 0 1|3 0 0 1 2|5 1 0 0 0|0 2 0 4 0|1 0 2 0 3
0 0 0 0 6|0 1 0 5 0|0 2 0 1 3|2 0 0 4 0|1 0 0 4 1|0 5 0 1 0|4 0 0 0 2|0 2 0 4 0|1 0 5 0 0|0 0 0 0 6"""
    counts = np.array([[int(word) for word in row.split()] for row in rows.replace("\n", "|").split("|")])
    assert counts.shape == (30, 5)
    assert fleiss_kappa(counts) == pytest.approx(0.430, abs=5e-4)
    with pytest.raises(ValueError, match="Krippendorff"):
        fleiss_kappa(np.array([[1, 1], [1, 2]]))


choices = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30)


@settings(deadline=None)
@given(choices)
def test_cohens_kappa_is_what_scikit_learn_says(said):
    first, second = zip(*said, strict=True)
    ways: tuple[tuple[Any, Any], ...] = (("nominal", None), ("ordinal", "linear"), ("interval", "quadratic"))
    for scale, weights in ways:
        mine = cohens_kappa(first, second, 4, scale=scale)
        if len({*first, *second}) == 1:
            assert math.isnan(mine)
        else:
            assert mine == pytest.approx(cohen_kappa_score(first, second, weights=weights, labels=range(4)), abs=1e-9)


@settings(deadline=None)
@given(choices)
def test_alpha_of_two_is_near_cohens_kappa_and_one_where_all_agree(said):
    alpha = krippendorffs_alpha(said, 4)
    if len({choice for case in said for choice in case}) == 1:
        assert math.isnan(alpha)
    else:
        assert alpha <= 1
        assert (alpha == pytest.approx(1)) == all(one == other for one, other in said)


def test_pairs_of_masks():
    one, other, none = (np.zeros((10, 10, 10), bool) for _ in range(3))
    one[2:6, 2:6, 2:6] = True
    other[2:6, 2:6, 3:7] = True
    found = {(pair.first, pair.second): (pair.dice, pair.hd95_mm) for pair in pairs_of([one, other, none], (1.0, 1.0, 2.0))}
    assert found[0, 1] == (0.75, 2.0)
    assert found[0, 2] == (0.0, math.inf)
    [neither] = pairs_of([none, none], (1.0, 1.0, 1.0))
    assert neither.dice == 1.0
    assert math.isnan(neither.hd95_mm)


def test_where_they_differ():
    masks = [np.array([[[0, 1, 2, 1]]], np.uint8), np.array([[[0, 1, 1, 2]]], np.uint8), np.array([[[0, 1, 1, 0]]], np.uint8)]
    assert disagreement(masks).ravel().tolist() == pytest.approx([0, 0, 2 / 3, 1])
    assert not disagreement(masks[:1]).any()
