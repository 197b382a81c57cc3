"""Studies in the order in which they were made, whatever sessions are called."""

import random

import pytest

from medray.cohort.order import in_order, tells_order


@pytest.mark.parametrize(
    "studies",
    [
        ["ses-1", "ses-2", "ses-9", "ses-10", "ses-11"],
        ["ses-pre", "ses-post"],
        ["baseline", "month6", "month12"],
        ["bl", "m03", "m12"],
        ["20190312", "20190312101500", "20200101", "20200101093000"],
        ["ses-20191231", "ses-20200101"],
        ["Screening", "Week4", "week26"],
    ],
)
def test_names_are_ordered_as_people_read_them(studies):
    shuffled = random.Random(0).sample(studies, len(studies))
    assert sorted(shuffled, key=in_order) == studies


def test_what_tells_an_order():
    assert all(map(tells_order, ("ses-2", "20200101", "baseline", "PRE", "ses-preop")))
    assert not any(map(tells_order, ("", "early", "late", "presurgical", "ses-a")))
