import pytest

from medray.audit import open_trail
from medray.errors import ConflictError
from medray.registry.registry import Registry
from medray.registry.rollout import Canary


@pytest.fixture
def three(stored):
    store, card, folder = stored
    for _ in range(3):
        store.register(card, folder)
    store.promote("ball/1")
    return store


def test_a_rollback_goes_back_to_what_was_before(three):
    three.promote("ball/2", why="better on the test cohort")
    three.promote("ball/3")
    assert three.rollback("ball", why="slow").version == 2
    assert three.resolve("ball").version == 2
    assert three.rollback("ball").version == 1
    with pytest.raises(ConflictError, match="nothing to go back to"):
        three.rollback("ball")
    told = [(event.action, event.target, event.detail) for event in open_trail().events()]
    assert ("model.promote", "ball/2", "champion after 1: better on the test cohort") in told
    assert ("model.rollback", "ball/2", "champion after 3: slow") in told


def test_promoting_what_is_promoted_changes_nothing(three):
    three.promote("ball/2")
    three.promote("ball/2")
    assert three.rollback("ball").version == 1


def test_a_challenger_answers_what_its_canary_says(three):
    assert three.rollout("ball").alone
    three.challenge("ball/2", Canary(share=0.25, agreement=0.8))
    three.promote("ball/3", "shadow")
    rollout = Registry(three.uri).rollout("ball")
    assert [str(one) for one in (rollout.champion, rollout.challenger, rollout.shadow)] == ["ball/1", "ball/2", "ball/3"]
    assert rollout.canary is not None
    assert rollout.canary == Canary(share=0.25, agreement=0.8, since=rollout.canary.since)
    assert rollout.canary.since > "2026"
    three.withdraw("ball/3")
    assert three.rollout("ball").challenger, "it wasn't the challenger"
    three.withdraw("ball/2", why="disagrees")
    assert three.rollout("ball").challenger is None
    assert str(three.rollout("ball").shadow) == "ball/3"


def test_a_challenger_that_wins_is_champion_alone(three):
    three.challenge("ball/2", Canary())
    three.promote("ball/2")
    rollout = three.rollout("ball")
    assert rollout.champion.version == 2
    assert rollout.alone
    assert three.resolve("ball/2").aliases == ("champion",)


def test_a_challenger_needs_a_champion_beside_it(stored):
    store, card, folder = stored
    store.register(card, folder)
    with pytest.raises(ConflictError, match="nobody to challenge"):
        store.challenge("ball/1", Canary())
    store.promote("ball/1")
    with pytest.raises(ConflictError, match="champion already"):
        store.challenge("ball/1", Canary())


def test_an_alias_challenger_alone_answers_nothing(three):
    three.promote("ball/2", "challenger")
    assert three.rollout("ball").alone
