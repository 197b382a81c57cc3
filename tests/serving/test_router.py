from hypothesis import given
from hypothesis import strategies as st

from medray.serving.router import PATIENCE, Candidate, ranked


def first(**replicas):
    return ranked({name: Candidate(queue, warm) for name, (queue, warm) in replicas.items()})[0]


def test_a_replica_with_the_model_comes_first_until_its_queue_is_long():
    assert first(a=(0, False), b=(PATIENCE - 1, True)) == ["b"]
    assert first(a=(0, False), b=(PATIENCE, True)) == ["a"]
    assert first(a=(PATIENCE + 1, False), b=(PATIENCE, True)) == ["b"]
    assert first(a=(2, True), b=(1, True)) == ["b"]
    assert first(a=(2, False), b=(1, False)) == ["b"]


@given(st.dictionaries(st.integers(), st.builds(Candidate, st.integers(0, 20), st.booleans()), max_size=8))
def test_each_replica_is_in_one_rank(candidates):
    assert sorted(key for rank in ranked(candidates) for key in rank) == sorted(candidates)
