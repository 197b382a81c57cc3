"""Label maps of pairs: joining undoes parting, exchanging transposes, and names say which is which."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.errors import ConfigError
from medray.imaging.labels import LabelSchema
from medray.imaging.transitions import Transitions

LABELS = st.integers(1, 15).map(lambda count: Transitions(tuple(f"label {number}" for number in range(count))))


def masks(labels, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, labels.states, (5, 4, 3)).astype(np.uint8) for _ in range(2)]


@given(LABELS, st.integers(0, 1000))
def test_what_is_joined_can_be_parted(labels, seed):
    before, after = masks(labels, seed)
    pair = labels.joined(before, after)
    assert pair.dtype == np.uint8
    for found, true in zip(labels.parted(pair), (before, after), strict=True):
        assert np.array_equal(found, true)


@given(LABELS, st.integers(0, 1000))
def test_counts_of_transitions_sum_to_counts_of_labels(labels, seed):
    before, after = masks(labels, seed)
    counts = np.bincount(labels.joined(before, after).ravel(), minlength=labels.states**2).astype(np.float64)
    assert np.array_equal(labels.before(counts), np.bincount(before.ravel(), minlength=labels.states))
    assert np.array_equal(labels.after(counts), np.bincount(after.ravel(), minlength=labels.states))


@given(LABELS)
def test_a_schema_says_what_it_is_of(labels):
    assert Transitions.of(labels.schema) == labels
    assert len(labels.schema.names) == labels.states**2 - 1


def test_names_say_what_a_value_means():
    labels = Transitions(("lesion", "edema"))
    names = labels.schema.names
    assert names["lesion to background"] == 1
    assert names["background to lesion"] == 3
    assert names["lesion to edema"] == labels.joined(np.array([1], np.uint8), np.array([2], np.uint8))[0]
    assert labels.numbers("edema") == (
        names["edema to background"], names["background to edema"], names["edema to edema"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "1 to 15"),
        (tuple("abcdefghijklmnop"), "not of 16"),
        (("a", "a"), "differ"),
        (("a to b",), "hold"),
        (("background",), "none"),
    ],
)
def test_what_would_be_ambiguous_is_refused(labels, message):
    with pytest.raises(ConfigError, match=message):
        Transitions(labels)


@pytest.mark.parametrize("names", [{"lesion": 1}, {"background to lesion": 1}, {"a to background": 1, "background to b": 2}])
def test_another_schema_is_none_of_transitions(names):
    with pytest.raises(ConfigError, match="medray cohort pairs"):
        Transitions.of(LabelSchema(names))
