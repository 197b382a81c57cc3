import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medray import config
from medray.errors import ConfigError, InputError
from medray.monitoring.alarm import Watch, looked
from medray.monitoring.drift import Sample, compared

NAMES = ("noise", "level", "spacing_max", "volume lesion", "confidence")


def sample(rng, size=60, *, embeddings=True, sites=("north", "south"), **moved):
    """Studies with numbers that hang together; those named in ``moved`` are moved."""
    common = rng.normal(size=size)
    numbers = {name: common + rng.normal(size=size) + moved.get(name.replace(" ", "_"), 0) for name in NAMES}
    found = rng.normal(size=(size, 6)).astype(np.float32) + np.float32(moved.get("embedding", 0)) if embeddings else None
    return Sample(size, numbers, {"site": list(rng.choice(sites, size))}, found)


def test_studies_of_one_kind_are_an_alarm_as_rarely_as_is_said(rng):
    found = np.array([compared(sample(rng), sample(rng, 20), shuffles=199, seed=seed).p for seed in range(400)])
    for level in (0.05, 0.1, 0.5):
        share, slack = (found <= level).mean(), 3 * np.sqrt(level * (1 - level) / len(found))
        assert share <= level + slack, level
        assert share >= level - slack - 0.02, "and no rarer than that: it would see less"


def test_embeddings_of_any_distribution_are_an_alarm_as_rarely(rng):
    def sample(size):
        return Sample(size, {}, {}, np.maximum(rng.standard_t(3, (size, 64)), 1.0).astype(np.float32))

    found = [compared(sample(50), sample(50), shuffles=199, seed=number).p for number in range(60)]
    assert sum(p <= 0.05 for p in found) <= 9


@pytest.mark.parametrize(
    ("moved", "family", "name"),
    [
        ({"noise": 2}, "image", "noise"),
        ({"spacing_max": -2}, "acquisition", "spacing_max"),
        ({"volume_lesion": 2}, "output", "volume lesion"),
        ({"embedding": 1}, "embedding", ""),
    ],
)
def test_what_moved_is_named(rng, moved, family, name):
    found = compared(sample(rng, 100), sample(rng, 50, **moved))
    assert found.p < 0.001
    assert min(found.families, key=lambda one: found.families[one]) == family
    if name:
        assert found.changes[0].name == name
        assert np.sign(found.changes[0].after - found.changes[0].before) == np.sign(next(iter(moved.values())))
    assert (found.reference, found.window) == (100, 50)


def test_a_number_that_only_spreads_is_seen(rng):
    before, after = sample(rng, 200), sample(rng, 50)
    after.numbers["noise"][:] *= 3
    assert compared(before, after).p < 0.001


def test_a_label_that_comes_more_often_is_seen(rng):
    found = compared(sample(rng, 200), sample(rng, 50, sites=("north", "north", "north", "north", "west")))
    assert found.p < 0.001
    assert found.changes[0].family == "mix"
    assert {change.name for change in found.changes} & {"site: west", "site: south", "site: north"}


def test_labels_that_are_not_known_say_nothing(rng):
    before, after = sample(rng, 200), sample(rng, 50)
    after.labels["site"] = ["" if number % 3 else one for number, one in enumerate(after.labels["site"])]
    assert compared(before, after).p > 0.001
    after.labels["site"] = [""] * 50
    assert "mix" not in compared(before, after).families


def test_numbers_that_are_missing_now_are_seen(rng):
    before, after = sample(rng, 100), sample(rng, 50)
    after.numbers["noise"][:40] = np.nan
    after.embeddings[:5] = np.nan
    assert compared(before, after).p < 0.001


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(5, 40))
def test_how_numbers_are_measured_does_not_matter(seed, size):
    rng = np.random.default_rng(seed)
    before, after = sample(rng, embeddings=False), sample(rng, size, embeddings=False)

    def in_other_units(one):
        return Sample(one.size, {name: np.exp(values / 3) for name, values in one.numbers.items()}, one.labels)

    plain, other = compared(before, after, shuffles=199), compared(in_other_units(before), in_other_units(after), shuffles=199)
    assert plain.p == pytest.approx(other.p, abs=0.011)
    assert {change.name for change in plain.changes[:1]} == {change.name for change in other.changes[:1]}


def test_constants_and_strangers_say_nothing(rng):
    before, after = sample(rng), sample(rng, 20)
    for one in (before, after):
        one.numbers["tilt"] = np.zeros(one.size)
    before.numbers["old"] = np.ones(before.size)
    assert {change.name for change in compared(before, after, told=99).changes}.isdisjoint({"tilt", "old"})


def test_too_few_studies_are_refused(rng):
    with pytest.raises(InputError, match="each side needs 5"):
        compared(sample(rng), sample(rng, 4))


def test_a_look_sees_a_group_by_itself(rng):
    reference = sample(rng, 200)
    window = sample(rng, 50)
    south = np.array([one == "south" for one in window.labels["site"]])
    window.numbers["noise"][south] += 3
    outlook = looked(reference, window, Watch(fewest=10))
    assert outlook.alarm
    assert outlook.groups["site: south"].p < 0.001 < outlook.groups["site: north"].p
    assert set(outlook.whole) == {20, 50}
    assert outlook.worst is not None
    assert outlook.worst.p <= outlook.level
    assert not looked(reference, sample(rng, 50, sites=("north",)), Watch(groups=())).groups


def test_before_there_are_enough_nothing_is_said(rng):
    outlook = looked(sample(rng), sample(rng, 9), Watch())
    assert not outlook.alarm
    assert outlook.worst is None


def test_a_short_window_is_no_longer_than_the_long_one():
    with pytest.raises(ConfigError, match="short=60"):
        config.load(Watch, {"short": 60}, what="watch")
