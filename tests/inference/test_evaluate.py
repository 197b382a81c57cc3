"""Evaluation of each task, and what is written of it."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medray import config
from medray.cohort.cohort import Cohort
from medray.errors import ConfigError
from medray.evaluation.calibration import Calibration
from medray.imaging.volume import Volume
from medray.inference.evaluate import held_out, score_cases, unseen
from medray.inference.groups import groups_of
from medray.inference.predictor import Predictor
from medray.inference.report import write_evaluation
from medray.models.networks import build_model
from medray.preprocessing.planning import plan
from medray.storage.location import locate
from medray.tasks.task import task_of
from tests.phantoms import SMALL_PLAN

SMALL = {"segmentation": SMALL_PLAN, "detection": SMALL_PLAN | {"targets": ["core"], "target_weights": [1.0]}, "diagnosis": {}}


@pytest.fixture(scope="module")
def cohort(phantom_cohort):
    """Every second image has a finding."""
    other = Cohort(phantom_cohort.root, phantom_cohort.index)
    rows = enumerate(phantom_cohort.rows)
    other.__dict__["rows"] = tuple(replace(row, findings=("nodule",) if n % 2 else ()) for n, row in rows)
    return other


@pytest.fixture(scope="module", params=list(SMALL))
def scored(request, cohort):
    recipe = plan(cohort, task=request.param, changes=SMALL[request.param] | {"val": 0.2, "test": 0.4})
    torch.manual_seed(0)
    network = build_model(recipe.network, 1, task_of(recipe).channels, recipe.patch).eval()
    predictor = Predictor(network, recipe, torch.device("cpu"))
    return predictor, score_cases(predictor, cohort, held_out(cohort, recipe, "test"))


def test_a_cohort_of_others_is_all_test(cohort):
    recipe = plan(cohort, changes=SMALL_PLAN | {"val": 0.2, "test": 0.4})
    trained = {row.subject for split in ("train", "val") for row in held_out(cohort, recipe, split)}
    tested = held_out(cohort, recipe, "test")
    assert unseen(cohort, recipe, trained) == tested
    assert unseen(cohort, recipe, {*trained, tested[0].subject}) == [row for row in tested if row.subject != tested[0].subject]
    assert unseen(cohort, recipe, {"somebody", "else"}) == list(cohort.rows)


def test_every_target_has_a_number_and_an_interval_around_it(scored):
    predictor, found = scored
    assert set(found.overall.summary) == set(predictor.plan.targets)
    for name, measures in found.overall.summary.items():
        for measure, value in measures.items():
            low, high = found.overall.intervals[name][measure]
            assert np.isnan(value) or low - 1e-9 <= value <= high + 1e-9
    assert len(found.cases) == found.overall.cases > 1


def test_what_is_written_can_be_read(scored, cohort, tmp_path):
    predictor, found = scored
    write_evaluation(locate(tmp_path), "a model", found, predictor, cohort)
    data = json.loads((tmp_path / "evaluation.json").read_text())
    assert data["measure"] == found.measure
    assert "NaN" not in (tmp_path / "evaluation.json").read_text()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "cases.csv").read_text())))
    assert len(rows) == len(found.cases) * len(predictor.plan.targets)
    assert {row["series"] for row in rows} == {case.series for case in found.cases}
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 1 + min(4, len(found.cases))
    assert "src='http" not in page


def test_groups_come_from_what_the_header_kept():
    header = {
        "00100040": {"vr": "CS", "Value": ["F"]},
        "00101010": {"vr": "AS", "Value": ["052Y"]},
        "00080080": {"vr": "LO", "Value": ["North"]},
        "00080070": {"vr": "LO"},
    }
    volume = Volume(np.zeros((1, 2, 2, 2)), np.eye(4), {"modality": "CT", "dicom": json.dumps(header)})
    assert groups_of(volume) == {"modality": "CT", "sex": "F", "age": "40 to 64", "site": "North"}
    assert groups_of(Volume(np.zeros((1, 2, 2, 2)), np.eye(4))) == {}


@pytest.mark.parametrize(
    ("age", "band"), [("017Y", "under 18"), ("240M", "18 to 39"), ("006W", "under 18"), ("090Y", "65 and over"), ("old", None)]
)
def test_ages_are_banded(age, band):
    header = {"00101010": {"vr": "AS", "Value": [age]}}
    assert groups_of(Volume(np.zeros((1, 1, 1, 1)), np.eye(4), {"dicom": json.dumps(header)})).get("age") == band


def test_a_group_has_its_own_scores(cohort):
    """Half the scans claim to be CT: both halves are scored by themselves."""
    recipe = plan(cohort, changes=SMALL_PLAN | {"modalities": ["MR", "CT"], "val": 0.2, "test": 0.4})
    torch.manual_seed(0)
    network = build_model(recipe.network, 1, 3, recipe.patch).eval()
    mixed = Cohort(cohort.root, cohort.index)
    mixed.__dict__["rows"] = cohort.rows
    original, numbers = mixed.volume, iter(range(99))

    def volume(row):
        found = original(row)
        return Volume(found.voxels, found.affine, {"modality": "CT" if next(numbers) % 2 else "MR"})

    mixed.volume = volume  # type: ignore[method-assign]
    found = score_cases(Predictor(network, recipe, torch.device("cpu")), mixed, held_out(mixed, recipe, "test"))
    assert set(found.groups) == {"modality"}
    assert sum(group.cases for group in found.groups["modality"].values()) == found.overall.cases


def test_probabilities_mean_what_the_model_s_folder_says(cohort, tmp_path):
    recipe = plan(cohort, task="diagnosis", changes={"val": 0.2, "test": 0.4})
    torch.manual_seed(0)
    network = build_model(recipe.network, 1, 1, recipe.patch).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "plan.json").write_text(json.dumps(config.dump(recipe)))
    volume = cohort.volume(cohort.rows[0])
    plain = Predictor.load(tmp_path).predict(volume).answer
    (tmp_path / "calibration.json").write_text(json.dumps({"nodule": {"slope": 0.5, "offset": -1.0}}))
    meant = Predictor.load(tmp_path).predict(volume).answer
    assert meant.probabilities["nodule"] == pytest.approx(Calibration(slope=0.5, offset=-1.0)(plain.probabilities["nodule"]))
    assert meant.probabilities["nodule"] != plain.probabilities["nodule"]
    assert meant.saliency is not None
    assert plain.saliency is not None
    factor = meant.probabilities["nodule"] / plain.probabilities["nodule"]
    assert np.allclose(meant.saliency, np.clip(plain.saliency * factor, 0, 1), atol=1e-5)
    (tmp_path / "calibration.json").write_text(json.dumps({"nodule": {"slop": 0.5}}))
    with pytest.raises(ConfigError, match="slop"):
        Predictor.load(tmp_path)
