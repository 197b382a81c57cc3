import json
from types import SimpleNamespace
from typing import Any

import pytest

from medray.errors import ConfigError
from medray.preprocessing.planning import plan
from medray.storage.location import locate
from medray.training.config import FitConfig
from medray.training.run import Made, best_of, claim_folder, finish_run, read_history


def test_the_same_set_up_finds_its_folder_again_and_another_gets_a_new_one(tmp_path):
    runs = locate(tmp_path)
    first = claim_folder(runs, "brain", {"epochs": 1})
    assert claim_folder(runs, "brain", {"epochs": 1}) == first
    other = claim_folder(runs, "brain", {"epochs": 2})
    assert other.path.endswith("brain/2")
    other.join("run.json").write(b"{}")
    assert claim_folder(runs, "brain", {"epochs": 2}) == other
    assert claim_folder(runs, "brain", {"epochs": 1}).path.endswith("brain/3")
    assert read_history(first) == []


@pytest.mark.parametrize("name", ["", "Brain", "a/b", "../x", "a b"])
def test_names_that_are_no_folder_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="small letters"):
        claim_folder(locate(tmp_path), name, {})


def test_the_best_checkpoint_is_the_latest_of_equals():
    told = [{"score": score, "epoch": epoch} for epoch, score in enumerate((0.5, 1.0, 0.9, 1.0, 0.2))]
    assert best_of(zip("abcde", told, strict=True)) == ("d", 3)
    assert best_of(zip("abcde", reversed(told), strict=True)) == ("b", 3)


def test_weights_go_out_with_the_calibration_of_their_own_epoch(tmp_path, phantom_cohort):
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    history = [
        {"epoch": epoch, "score": 1.0, "scores": {"ball": 1.0}, "calibration": {"ball": {"slope": 1.0 + epoch}}}
        for epoch in range(3)
    ]
    prepared: Any = SimpleNamespace(cohort="c0", subjects=lambda split: ())
    made = Made(plan(phantom_cohort), FitConfig(), prepared, history, 2, 1)
    run = finish_run("ball", locate(tmp_path / "run"), tmp_path, made, {})
    assert run.record["best_epoch"] == 2
    assert json.loads(run.model.join("calibration.json").read()) == {"ball": {"slope": 3.0}}
