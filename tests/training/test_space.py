import pytest

from medray.errors import ConfigError
from medray.preprocessing.planning import plan
from medray.training.config import FitConfig
from medray.training.space import applied, read_space
from tests.phantoms import SMALL_PLAN

GOOD = {
    "fit": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    "plan": {"network.features": {"choose": [[4, 8], [8, 16]]}, "batch": {"low": 1, "high": 4}},
}


def test_a_point_changes_what_it_names_and_says_so(phantom_cohort):
    before = plan(phantom_cohort, changes=SMALL_PLAN)
    point = {"fit.learning_rate": 0.005, "plan.network.features": (4, 8), "plan.batch": 3}
    after, config = applied(before, FitConfig(epochs=7), point)
    assert after.network.features == (4, 8)
    assert after.network.norm == before.network.norm
    assert after.batch == 3
    assert after.reasons["batch"] == "found by search"
    assert after.spacing_mm == before.spacing_mm
    assert (config.learning_rate, config.epochs) == (0.005, 7)
    assert set(read_space(GOOD).ranges) == set(point)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing varies"),
        ({"plan": {"spacing_mm": {"choose": [[1, 1, 1]]}}}, "would change the prepared cases"),
        ({"fit": {"epochs": {"low": 1, "high": 5}}}, "fit.epochs can't be searched"),
        ({"fit": {"speed": {"low": 1, "high": 5}}}, "fit.speed can't be searched"),
        ({"fit": {"clip": {"low": 5, "high": 1}}}, "low 5 must be below high 1"),
        ({"fit": {"clip": {"low": 0, "high": 1, "log": True}}}, "low 0 must be positive"),
        ({"fit": {"clip": {"low": 1}}}, "low and high, or choose"),
        ({"fit": {"clip": {"low": 1, "high": 2, "choose": [3]}}}, "low and high, or choose"),
        ({"trial": {}}, "unknown key 'trial'"),
    ],
)
def test_impossible_spaces_are_refused_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_space(settings)
    assert "\n" not in str(caught.value)


def test_an_impossible_point_is_an_error_of_its_trial(phantom_cohort):
    with pytest.raises(ConfigError, match="the network's divisor"):
        applied(plan(phantom_cohort, changes=SMALL_PLAN), FitConfig(), {"plan.network.features": [4] * 6})
