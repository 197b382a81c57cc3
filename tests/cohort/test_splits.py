import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.cohort.splits import split_subjects
from medray.errors import InputError

names = st.sets(st.text("abcdef0123456789", min_size=4, max_size=8), min_size=3, max_size=60)


@given(names, st.integers(0, 5))
def test_every_subject_is_on_one_side_and_no_side_is_empty(subjects, seed):
    splits = split_subjects(subjects, seed=seed)
    assert set(splits) == subjects
    assert set(splits.values()) == {"train", "val", "test"}
    assert splits == split_subjects(sorted(subjects, reverse=True), seed=seed)


def test_shares_are_met_in_a_large_cohort():
    splits = split_subjects([f"s{k}" for k in range(4000)], val=0.1, test=0.2)
    assert sum(place == "val" for place in splits.values()) == pytest.approx(400, rel=0.15)
    assert sum(place == "test" for place in splits.values()) == pytest.approx(800, rel=0.15)


def test_a_subject_keeps_its_place_when_the_cohort_grows():
    small = split_subjects([f"s{k}" for k in range(100)])
    large = split_subjects([f"s{k}" for k in range(1000)])
    assert all(large[subject] == place for subject, place in small.items())


def test_two_subjects_are_too_few():
    with pytest.raises(InputError, match="2 subjects can't be split"):
        split_subjects(["a", "b", "a"])
