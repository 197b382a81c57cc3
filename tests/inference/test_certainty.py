import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.imaging.boxes import Box
from medray.inference.certainty import Onlooker, certainty_of
from medray.preprocessing.blocks import Blocks
from medray.tasks.answer import Answer


def seen(values, *, regions=False, pieces=1):
    watch = Onlooker(regions=regions)
    cuts = np.array_split(np.arange(values.shape[1]), pieces)
    parts = [((int(cut[0]), 0, 0), values[:, cut]) for cut in cuts]
    watch.watched(Blocks(values.shape[1:], parts)).whole()
    return watch.certainty


def softmax(rng, shape, sharpness):
    values = np.exp(sharpness * rng.normal(size=shape)).astype(np.float32)
    return values / values.sum(axis=0)


@settings(max_examples=30, deadline=None)
@given(sharpness=st.floats(0.1, 8), pieces=st.integers(1, 4), seed=st.integers(0, 99))
def test_it_does_not_depend_on_how_the_map_comes(sharpness, pieces, seed):
    values = softmax(np.random.default_rng(seed), (4, 12, 9, 7), sharpness)
    whole, parts = seen(values), seen(values, pieces=pieces)
    assert whole.confidence == pytest.approx(parts.confidence)
    assert whole.entropy == pytest.approx(parts.entropy, abs=1e-6)
    assert 0 <= whole.entropy <= 2 + 1e-6
    assert 0.25 <= whole.confidence <= 1


def test_a_model_that_is_sure_has_no_entropy(rng):
    certain = np.zeros((3, 8, 8, 8), np.float32)
    certain[rng.integers(0, 3, (8, 8, 8)), *np.indices((8, 8, 8))] = 1
    found = seen(certain)
    assert found.confidence == 1
    assert found.entropy == pytest.approx(0, abs=1e-4)


def test_nothing_in_sight_is_sure_to_be_nothing():
    nothing = np.zeros((2, 8, 8, 8), np.float32)
    nothing[0] = 1
    assert (seen(nothing).confidence, seen(nothing).entropy) == (1, 0)
    assert (seen(np.zeros((2, 4, 4, 4), np.float32), regions=True).confidence) == 1


def test_a_large_block_is_looked_at_here_and_there(rng):
    values = softmax(rng, (3, 64, 60, 56), 2)
    assert seen(values).confidence == pytest.approx(seen(values, pieces=8).confidence, abs=0.02)


@pytest.mark.parametrize(
    ("answer", "confidence", "entropy"),
    [
        (Answer(probabilities={"a": 0.5, "b": 0.5}), 0.5, 1),
        (Answer(probabilities={"a": 0.0, "b": 1.0}), 1, 0),
        (Answer(probabilities={"a": 0.1}), 0.9, 0.469),
        (Answer(), 1, 0),
        (Answer(boxes=[Box("a", (0, 0, 0), (1, 1, 1), 0.5)]), 0.5, 1),
    ],
)
def test_answers_without_a_map(answer, confidence, entropy):
    found = certainty_of(answer)
    assert found.confidence == pytest.approx(confidence)
    assert found.entropy == pytest.approx(entropy, abs=1e-3)
