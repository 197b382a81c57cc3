import numpy as np
import pytest

from medray.registry.rollout import Canary
from medray.serving.judge import Judge, Pair

LIMIT = 200


def taken_back(pairs, canary=None):
    """After how many requests, and why; None and nothing where it isn't."""
    judge = Judge(canary or Canary())
    for number, pair in enumerate(pairs, start=1):
        if why := judge.add(pair):
            return number, why
    return None, ""


def requests(rng, count=LIMIT, *, errors=0.0, slower=1.0, agreement=0.97, noise=0.15):
    for _ in range(count):
        if rng.random() < errors:
            yield Pair(failed=True)
        else:
            yield Pair(False, slower * np.exp(noise * rng.normal()), {"a": float(np.clip(rng.normal(agreement, 0.04), 0, 1))})


@pytest.mark.parametrize(
    ("bad", "said"),
    [({"errors": 0.1}, "failed at"), ({"slower": 1.5}, "times the champion's time"), ({"agreement": 0.87}, "agrees with")],
)
def test_a_bad_challenger_is_taken_back_in_time(bad, said):
    found = [taken_back(requests(np.random.default_rng(seed), **bad)) for seed in range(200)]
    in_time = [number for number, _ in found if number is not None]
    assert len(in_time) >= 0.99 * len(found)
    assert all(said in why for _, why in found if why)


def test_a_good_one_is_not():
    found = [taken_back(requests(np.random.default_rng(seed), 1000, errors=0.002, slower=1.05)) for seed in range(200)]
    assert [number for number, _ in found if number is not None] == []


def test_at_the_limit_it_is_seldom():
    """A challenger that does just what it may: looking after each request must not add up."""
    canary = Canary(errors=0.05, slower=1.25, agreement=0.9)
    just = {"errors": 0.05, "slower": 1.25, "agreement": 0.9}
    found = [taken_back(requests(np.random.default_rng(seed), **just), canary) for seed in range(100)]
    assert sum(number is not None for number, _ in found) <= 8


def test_one_failure_is_no_reason_and_what_is_long_ago_is_none():
    assert taken_back([Pair(failed=True), *[Pair(False, 1.0, {"a": 1.0})] * 50])[0] is None
    assert taken_back([Pair(False, 1.0, {"a": 1.0})] * 600 + [Pair(failed=True)] * 60)[0] is not None


def test_a_challenger_that_never_agrees_or_never_answers_is_seen_soon():
    assert (taken_back([Pair(False, 1.0, {"a": 0.0})] * 50)[0] or 99) <= 10
    assert (taken_back([Pair(failed=True)] * 50)[0] or 99) <= 10


def test_one_target_that_is_never_found_is_enough_among_many():
    rng = np.random.default_rng(0)
    many = {f"organ {number}": 1.0 for number in range(30)}
    never = [Pair(False, 1.0, many | ({"lesion": 0.0} if rng.random() < 0.3 else {})) for _ in range(LIMIT)]
    number, why = taken_back(never)
    assert number is not None
    assert "on lesion by 0.000" in why
    assert taken_back([Pair(False, 1.0, many)] * LIMIT)[0] is None


def test_times_that_cannot_be_compared_say_nothing():
    assert taken_back([Pair(False, None, {"a": 1.0})] * LIMIT)[0] is None
