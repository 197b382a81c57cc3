import pytest

from medray import config
from medray.errors import ConfigError, InputError
from medray.preprocessing.plan import plan, read_plan
from tests.phantoms import LABELS


def test_a_plan_says_why(phantom_cohort):
    made = plan(phantom_cohort)
    assert made.labels == LABELS
    assert made.cohort == phantom_cohort.index.id
    assert made.spacing_mm == pytest.approx(phantom_cohort.index.fingerprint.spacing_mm, abs=1e-3)
    assert "median" in made.reasons["spacing_mm"]
    assert read_plan(config.dump(made)) == made


def test_changes_override_and_are_marked(phantom_cohort):
    made = plan(phantom_cohort, changes={"batch": 4, "network": {"features": [8, 16]}})
    assert made.batch == 4
    assert made.network.features == (8, 16)
    assert made.network.name == "unet"
    assert made.reasons["batch"] == "set by hand"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": [1, 1, 1]}, "unknown key 'spacing'"),
        ({"patch": [30, 30, 30]}, "multiples of 8"),
        ({"network": {"name": "resnet"}}, "network.name = 'resnet'"),
        ({"label_weights": [1.0]}, "label_weights needs 3 numbers"),
        ({"order": 2}, "order = 2"),
    ],
)
def test_impossible_changes_are_refused_in_one_line(phantom_cohort, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        plan(phantom_cohort, changes=changes)
    assert "\n" not in str(caught.value)


def test_another_schema_version_is_refused(phantom_cohort):
    with pytest.raises(ConfigError, match="schema version 7"):
        read_plan(config.dump(plan(phantom_cohort)) | {"schema_version": 7})


def test_a_large_field_of_view_is_made_coarser(phantom_cohort):
    from dataclasses import replace

    from medray.cohort.cohort import Cohort

    wide = replace(phantom_cohort.index.fingerprint, extent_mm=(512.0, 512.0, 512.0), spacing_mm=(1.0, 1.0, 1.0))
    made = plan(Cohort(phantom_cohort.root, replace(phantom_cohort.index, fingerprint=wide)))
    assert made.spacing_mm == pytest.approx((3.175,) * 3, abs=1e-3)
    assert "coarser" in made.reasons["spacing_mm"]


def test_ct_gets_a_window(phantom_cohort):
    from dataclasses import replace

    from medray.cohort.cohort import Cohort

    ct = replace(phantom_cohort.index.fingerprint, modalities={"CT": 9})
    made = plan(Cohort(phantom_cohort.root, replace(phantom_cohort.index, fingerprint=ct)))
    assert made.intensity.method == "window-zscore"


def test_a_cohort_without_labels_can_t_be_planned(phantom_cohort):
    from dataclasses import replace

    from medray.cohort.cohort import Cohort

    with pytest.raises(InputError, match="no labelled series"):
        plan(Cohort(phantom_cohort.root, replace(phantom_cohort.index, labels=None)))
