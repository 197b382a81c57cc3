"""Studies in the order in which they were made, whatever sessions are called."""

import random

import pytest

from medray.cohort.order import in_order, order_told


@pytest.mark.parametrize(
    "studies",
    [
        ["ses-1", "ses-2", "ses-9", "ses-10", "ses-11"],
        ["ses-pre", "ses-post"],
        ["baseline", "month6", "month12"],
        ["bl", "m03", "m12"],
        ["20190312", "20190312101500", "20200101", "20200101093000"],
        ["ses-20191231", "ses-20200101"],
        ["ses-20190101", "ses-20200310preop", "ses-20200601"],
        ["Screening", "Week4", "week26"],
    ],
)
def test_names_are_ordered_as_people_read_them(studies):
    shuffled = random.Random(0).sample(studies, len(studies))
    assert sorted(shuffled, key=in_order) == studies


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["ses-1", "ses-2"], True),
        (["pre", "post"], True),
        (["baseline", "month6", "month12"], True),
        (["20190101", "20200101"], True),
        (["early", "late"], False),
        (["postop", "t1"], False),
        (["surgery", "followup1"], False),
        (["pre", "t1", "post"], False),
        (["month6", "week26"], False),
        (["pre", "baseline"], False),
    ],
)
def test_what_tells_an_order(names, told):
    assert order_told(names) == told
