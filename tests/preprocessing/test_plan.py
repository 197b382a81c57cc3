import math
from dataclasses import replace

import pytest

from medray import config
from medray.cohort.cohort import Cohort
from medray.errors import ConfigError, InputError
from medray.imaging.labels import LabelSchema
from medray.imaging.transitions import Transitions
from medray.preprocessing.budget import Memory
from medray.preprocessing.plan import read_plan
from medray.preprocessing.planning import plan
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
        ({"network": {"name": "resnet"}}, "a segmentation needs an answer at each voxel"),
        ({"network": {"name": "lenet"}}, "name = 'lenet'"),
        ({"targets": ["ball", "ball"]}, "each may stand there once"),
        ({"targets": "core"}, 'targets = "core": give a list'),
        ({"spacing_mm": 2}, "spacing_mm = 2: give a list"),
        ({"spacing_mm": [1, 0, 1]}, "spacing_mm = .1, 0, 1.: give a list"),
        ({"targets": ["liver"]}, "'liver' is no label of the cohort: ball, core"),
        ({"regions": {"whole": ["ball", "shell"]}}, "'shell' is no label"),
        ({"target_weights": [1.0]}, "target_weights needs 3 numbers"),
        ({"order": 2}, "order = 2"),
        ({"network": "dynunet"}, "the network is 'dynunet': give a table of name"),
        ({"spacing_mm": [1, 1]}, "spacing_mm = .1, 1.: give a list"),
        ({"regions": "whole"}, "regions = 'whole': give each target its labels"),
        ({"one_piece": ["liver"]}, "one_piece .'liver'.: targets of a segmentation"),
    ],
)
def test_impossible_changes_are_refused_in_one_line(phantom_cohort, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        plan(phantom_cohort, changes=changes)
    assert "\n" not in str(caught.value)


def test_another_schema_version_is_refused(phantom_cohort):
    with pytest.raises(ConfigError, match="schema version 7"):
        read_plan(config.dump(plan(phantom_cohort)) | {"schema_version": 7})


def with_rows(cohort, change):
    """The same cohort with other facts in its manifest."""
    other = Cohort(cohort.root, cohort.index)
    other.__dict__["rows"] = tuple(change(row) for row in cohort.rows)
    return other


def test_a_large_field_of_view_is_made_coarser(phantom_cohort):
    wide = with_rows(phantom_cohort, lambda row: replace(row, shape=(512, 512, 512), spacing_mm=(1.0, 1.0, 1.0)))
    made = plan(wide)
    assert made.spacing_mm == pytest.approx((3.175,) * 3, abs=1e-3)
    assert "coarser" in made.reasons["spacing_mm"]


def test_ct_gets_a_window(phantom_cohort):
    made = plan(with_rows(phantom_cohort, lambda row: replace(row, modality="CT")))
    assert made.intensity.method == "window-zscore"


def test_a_network_by_name_comes_with_its_own_size(phantom_cohort):
    made = plan(phantom_cohort, changes={"network": {"name": "swinunetr"}})
    assert made.network.features == (12, 24, 48, 96)
    assert made.patch == (64, 64, 64)
    assert plan(phantom_cohort, changes={"network": {"name": "unetr", "features": [8, 48]}}).network.features == (8, 48)


def test_a_label_that_no_scan_shows_is_no_target(phantom_cohort):
    def without(row):
        return replace(row, statistics=replace(row.statistics, label_voxels={**row.statistics.label_voxels, "core": 0}))

    bare = with_rows(phantom_cohort, without)
    made = plan(bare)
    assert made.targets == ("ball",)
    assert "some scan shows" in made.reasons["targets"]
    for changes in ({"targets": ["ball", "core"]}, {"regions": {"whole": ["ball", "core"], "core": ["core"]}}):
        with pytest.raises(InputError, match="no scan of the cohort shows 'core'"):
            plan(bare, changes=changes)


def test_a_gpu_gets_a_deeper_network_and_says_why(phantom_cohort):
    heads = with_rows(phantom_cohort, lambda row: replace(row, shape=(180, 210, 180), spacing_mm=(1.0, 1.0, 1.0)))
    made = plan(heads, memory=Memory(24, gpu=True))
    assert made.network.name == "dynunet"
    assert min(made.patch) >= 96
    assert "GPU" in made.reasons["patch"]
    assert "as many as fit" in made.reasons["batch"]
    small = plan(heads, memory=Memory(24, gpu=True), changes={"network": {"name": "unet", "features": [8, 16]}, "batch": 3})
    assert small.network.features == (8, 16)
    assert small.batch == 3
    by_hand = plan(heads, memory=Memory(24, gpu=True), changes={"patch": [64, 64, 64]})
    assert by_hand.patch == (64, 64, 64)
    assert by_hand.batch > made.batch  # what a smaller patch leaves is filled with more of them
    assert (by_hand.reasons["patch"], by_hand.reasons["batch"][:7]) == ("set by hand", "patches")
    for impossible in ([64, 64], [63, 64, 64], "large"):
        with pytest.raises(ConfigError, match="patch"):
            plan(heads, memory=Memory(24, gpu=True), changes={"patch": impossible})
    cpu = plan(heads, memory=Memory(16))
    assert (cpu.network.name, cpu.patch, cpu.batch) == ("unet", (64, 64, 64), 2)


def test_pictures_get_a_flat_network(phantom_cohort):
    pictures = with_rows(phantom_cohort, lambda row: replace(row, shape=(300, 90, 1), spacing_mm=(0.5, 0.5, 4.0)))
    made = plan(pictures)
    assert made.patch == (256, 96, 1)
    assert made.spacing_mm == (0.5, 0.5, 4.0)
    numbers = iter(range(99))
    some = with_rows(pictures, lambda row: replace(row, findings=("odd",) if next(numbers) % 2 else ()))
    assert plan(some, task="diagnosis").patch == (304, 96, 1), "the whole picture"


def test_detection_leaves_out_what_fills_the_image(phantom_cohort):
    def small_core(row):
        return replace(row, statistics=replace(row.statistics, label_voxels={"ball": 9000, "core": 90}))

    assert plan(with_rows(phantom_cohort, small_core), task="detection").targets == ("core",)
    assert plan(phantom_cohort, task="detection").targets == ("ball", "core")


def findings(*names):
    """Give each row the names that its number says."""
    numbers = iter(range(99))
    return lambda row: replace(row, findings=names[next(numbers) % len(names)])


def test_a_diagnosis_is_of_what_some_images_have(phantom_cohort):
    made = plan(with_rows(phantom_cohort, findings(("nodule",), (), ("nodule", "effusion"))), task="diagnosis")
    assert made.targets == ("effusion", "nodule")
    assert not made.exclusive
    assert made.target_weights == (2.0, 0.5)
    assert not made.maps
    assert all(side % made.network.divisor == 0 for side in made.patch)
    longest = max(row.shape[0] * row.spacing_mm[0] for row in phantom_cohort.rows)
    assert made.patch[0] * made.spacing_mm[0] >= longest, "a diagnosis looks at whole images"


def test_a_diagnosis_of_labels_is_located_by_their_maps(phantom_cohort):
    numbers = iter(range(99))

    def some_core(row):
        return replace(row, statistics=replace(row.statistics, label_voxels={"ball": 9, "core": next(numbers) % 2}))

    mixed = with_rows(phantom_cohort, some_core)
    made = plan(mixed, task="diagnosis")
    assert made.targets == ("core",)
    assert made.located
    assert made.maps
    assert made.sampled == (2,)
    assert made.patch == (64, 64, 64), "patches are enough where one knows what is in them"
    numbers = iter(range(99))
    assert not plan(with_rows(phantom_cohort, some_core), task="diagnosis", changes={"located": False}).maps


def test_findings_of_which_each_image_has_one_exclude_each_other(phantom_cohort):
    made = plan(with_rows(phantom_cohort, findings(("benign",), ("malignant",))), task="diagnosis")
    assert made.exclusive
    assert made.targets == ("benign", "malignant")


def test_nothing_to_tell_apart_is_an_error(phantom_cohort):
    with pytest.raises(InputError, match="no finding is in some"):
        plan(phantom_cohort, task="diagnosis")
    with pytest.raises(InputError, match="finding 'ball' is in some"):
        plan(phantom_cohort, task="diagnosis", changes={"targets": ["ball"]})
    with pytest.raises(ConfigError, match="task 'prognosis' is unknown"):
        plan(phantom_cohort, task="prognosis")


def test_a_cohort_without_labels_can_t_be_planned(phantom_cohort):
    with pytest.raises(InputError, match="no labelled series"):
        plan(Cohort(phantom_cohort.root, replace(phantom_cohort.index, labels=None)))


def test_what_is_left_is_not_mirrored_into_what_is_right(phantom_cohort):
    assert plan(phantom_cohort).alike == (0, 1, 2)
    for names in (("kidney_left", "kidney-right"), ("hippocampus L", "other"), ("Right Lung", "heart")):
        sided = Cohort(phantom_cohort.root, replace(phantom_cohort.index, labels=LabelSchema({names[0]: 1, names[1]: 4})))
        sided.__dict__["rows"] = with_rows(
            phantom_cohort, lambda row, names=names: replace(row, statistics=renamed(row, names))
        ).rows
        made = plan(sided)
        assert made.alike == (1, 2)
        assert "has a side" in made.reasons["alike"]


def renamed(row, names):
    return replace(row.statistics, label_voxels=dict(zip(names, row.statistics.label_voxels.values(), strict=True)))


def pairs_of_balls(cohort):
    """The same images as if each were a pair: two channels, and transitions of balls."""
    labels = Transitions(("ball",)).schema
    share = {"ball to background": 40, "background to ball": 20, "ball to ball": 4000}
    pairs = Cohort(cohort.root, replace(cohort.index, labels=labels))
    pairs.__dict__["rows"] = tuple(
        replace(row, channels=2, statistics=replace(row.statistics, label_voxels=share)) for row in cohort.rows
    )
    return pairs


def test_a_progression_is_learned_from_all_transitions_of_pairs(phantom_cohort):
    pairs = pairs_of_balls(phantom_cohort)
    made = plan(pairs, task="progression")
    assert made.targets == ("ball to background", "background to ball", "ball to ball")
    assert len(made.target_weights) == 4
    assert made.target_weights[2] > made.target_weights[1] > made.target_weights[3], "what is rare counts more"
    assert (made.network.name, made.channels, made.least_change) == ("siamese", 2, 0.25)
    assert read_plan(config.dump(made)) == made
    assert plan(pairs, task="progression", changes={"least_change": 0.4}).least_change == 0.4
    for changes, message in (
        ({"network": {"name": "unet"}}, "takes a siamese"),
        ({"least_change": 0}, "least_change"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan(pairs, task="progression", changes=changes)
    with pytest.raises(ConfigError, match="takes a siamese"):
        plan(phantom_cohort, changes={"network": {"name": "siamese"}})
    with pytest.raises(ConfigError, match="medray cohort pairs"):
        plan(phantom_cohort, task="progression")
    nothing = with_rows(pairs, lambda row: replace(row, statistics=replace(row.statistics, label_voxels={})))
    with pytest.raises(InputError, match="nothing to follow"):
        plan(nothing, task="progression")


def test_one_depth_is_all_that_a_detection_answers_at(phantom_cohort):
    deep = {"network": {"name": "dynunet", "features": [8, 16, 32], "deep_supervision": True}}
    assert plan(phantom_cohort, changes=deep).network.deep_supervision
    with pytest.raises(ConfigError, match="deep_supervision: a detection answers at one depth only"):
        plan(phantom_cohort, task="detection", changes=deep)


def test_one_whole_body_makes_no_patch_of_a_whole_body(phantom_cohort):
    numbers = iter(range(99))

    def change(row):
        number = next(numbers)
        size = (600, 400, 1800) if number == 0 else (400, 300, 350)
        return replace(row, shape=size, spacing_mm=(1.0, 1.0, 1.0), findings=("odd",) if number % 2 else ())

    made = plan(with_rows(phantom_cohort, change), task="diagnosis")
    assert 2**19 < math.prod(made.patch) <= 2**21
    assert "parts of the few images that are larger" in made.reasons["patch"]
