import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from medray.evaluation.detection import Matches, average_precision, box_iou, froc, match_boxes, sensitivity_at

corner = st.tuples(*[st.integers(0, 6)] * 3)
boxes = st.lists(
    st.tuples(corner, st.tuples(*[st.integers(1, 4)] * 3)).map(lambda pair: (pair[0], np.add(*pair))), min_size=1, max_size=4
).map(lambda found: np.array(found, float))


def painted(box):
    grid = np.zeros((12, 12, 12), bool)
    grid[tuple(slice(int(low), int(high)) for low, high in zip(*box, strict=True))] = True
    return grid


@given(boxes, boxes)
def test_overlap_is_that_of_the_painted_boxes(first, second):
    found = box_iou(first, second)
    for n, one in enumerate(first):
        for m, other in enumerate(second):
            both, either = painted(one) & painted(other), painted(one) | painted(other)
            assert found[n, m] == pytest.approx(both.sum() / either.sum())


def test_a_second_box_on_the_same_truth_is_wrong_and_the_best_comes_first():
    truth = np.array([[[0, 0, 0], [4, 4, 4]]], float)
    predicted = np.array([[[0, 0, 0], [4, 4, 3]], [[0, 0, 0], [4, 4, 4]], [[9, 9, 9], [10, 10, 10]]], float)
    found = match_boxes(predicted, [0.5, 0.9, 0.7], truth)
    assert found.hits == (False, True, False)
    assert found.truths == 1


def test_a_scan_without_true_or_predicted_boxes():
    nothing, one = np.zeros((0, 2, 3)), np.array([[[0, 0, 0], [1, 1, 1]]], float)
    assert match_boxes(one, [0.3], nothing).hits == (False,)
    assert match_boxes(nothing, [], one) == Matches((), (), 1)
    assert math.isnan(froc([Matches((0.3,), (False,), 0)]))
    assert froc([Matches((), (), 1)]) == 0.0
    assert average_precision([Matches((), (), 1)]) == 0.0


def test_sensitivity_by_hand():
    scans = [Matches((0.9, 0.8, 0.2), (True, False, True), 2), Matches((0.7, 0.6), (False, True), 1)]
    assert sensitivity_at(scans, 0.0) == pytest.approx(1 / 3)
    assert sensitivity_at(scans, 0.5) == pytest.approx(1 / 3)
    assert sensitivity_at(scans, 1.0) == 1.0


def test_equal_scores_pass_a_threshold_together():
    scans = [Matches((0.5, 0.5), (True, False), 1)]
    assert sensitivity_at(scans, 0.5) == 0.0
    assert sensitivity_at(scans, 1.0) == 1.0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=30, unique_by=lambda pair: pair[0]))
def test_precision_is_scikit_learns_made_monotone(found):
    scores, hits = zip(*found, strict=True)
    if not any(hits):
        return
    ours = average_precision([Matches(tuple(map(float, scores)), hits, sum(hits))])
    assert ours >= average_precision_score(hits, scores) - 1e-9
    ordered = [hit for _, hit in sorted(found, reverse=True)]
    precision = [sum(ordered[: n + 1]) / (n + 1) for n in range(len(ordered))]
    by_hand = sum(max(precision[n:]) for n, hit in enumerate(ordered) if hit) / sum(hits)
    assert ours == pytest.approx(by_hand)
