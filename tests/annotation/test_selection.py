"""Which image comes next: the least sure one, the one that is least like what is known, or both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.annotation.selection import next_cases
from medray.errors import ConfigError

numbers = st.floats(0, 1, allow_nan=False, width=32)
pools = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.tuples(numbers, st.lists(numbers, min_size=3, max_size=3)), max_size=20
)


@settings(deadline=None)
@given(pools, st.integers(0, 8), st.sampled_from(["uncertainty", "diversity", "both"]), st.integers(0, 5))
def test_as_many_as_are_wanted_each_once_and_none_that_is_labelled(pool, count, by, known):
    scores = {name: score for name, (score, _) in pool.items()}
    features = {name: found for name, (_, found) in pool.items()}
    labelled = sorted(pool)[:known]
    chosen = next_cases(scores, features, count, by=by, labelled=labelled)
    assert len(chosen) == len(set(chosen)) == min(count, len(pool) - len(labelled))
    assert not set(chosen) & set(labelled)
    assert next_cases(scores, features, count, by=by, labelled=labelled) == chosen
    if by == "uncertainty":
        assert [scores[name] for name in chosen] == sorted((scores[name] for name in set(pool) - set(labelled)), reverse=True)[
            :count
        ]


def clusters():
    """Thirty images in three groups; those of the first are the least sure ones."""
    rng = np.random.default_rng(0)
    features = {
        f"{group}{n}": (rng.normal(0, 0.1, 3) + 10 * np.eye(3)[group]).tolist() for group in range(3) for n in range(10)
    }
    return {name: 1.0 - 0.3 * int(name[0]) - 0.01 * int(name[1]) for name in features}, features


def test_diversity_takes_one_of_each_kind_before_a_second_of_any():
    scores, features = clusters()
    assert {name[0] for name in next_cases(scores, features, 3, by="diversity")} == {"0", "1", "2"}
    assert {name[0] for name in next_cases(scores, features, 2, by="diversity", labelled=["00", "01"])} == {"1", "2"}
    assert {name[0] for name in next_cases(scores, features, 3, by="uncertainty")} == {"0"}


def test_both_prefers_the_unsure_among_those_that_are_new():
    scores, features = clusters()
    chosen = next_cases(scores, features, 2, by="both", labelled=["00"])
    assert chosen[0][0] == "1", "as far as the third group, and less sure"
    assert {name[0] for name in chosen} == {"1", "2"}


def test_an_unknown_way_is_told():
    with pytest.raises(ConfigError, match="uncertainty, diversity, both"):
        next_cases({"a": 1}, {"a": [1.0]}, 1, by="luck")  # type: ignore[arg-type]
