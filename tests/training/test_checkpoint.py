import pytest
import torch

from medray.errors import InputError
from medray.preprocessing.planning import plan
from medray.training.checkpoint import load_learner, save_learner
from medray.training.config import FitConfig
from medray.training.learner import Learner
from tests.phantoms import SMALL_PLAN


@pytest.fixture
def recipe(phantom_cohort):
    return plan(phantom_cohort, changes=SMALL_PLAN)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_learner_comes_back(recipe, tmp_path, average):
    learner = Learner.fresh(recipe, FitConfig(seed=1, average=average))
    learner.model(torch.randn(2, 1, 16, 16, 16)).sum().backward()
    learner.advance(1.0)
    save_learner(tmp_path, learner)
    other = Learner.fresh(recipe, FitConfig(seed=2, average=average))
    load_learner(tmp_path, other)
    for which in ("model", "judged"):
        found, expected = getattr(other, which).state_dict(), getattr(learner, which).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert other.optimizer.param_groups[0]["lr"] == learner.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("file", ["weights.safetensors", "learner.pt"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_checkpoint_that_was_cut_off_is_one_clear_error(recipe, tmp_path, file, share):
    save_learner(tmp_path, Learner.fresh(recipe, FitConfig()))
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="is damaged or of another network") as caught:
        load_learner(tmp_path, Learner.fresh(recipe, FitConfig()))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_network_and_an_absent_one_are_refused(recipe, phantom_cohort, tmp_path):
    save_learner(tmp_path, Learner.fresh(recipe, FitConfig()))
    other = plan(phantom_cohort, changes=SMALL_PLAN | {"network": {"name": "unet", "features": [4, 8, 16]}})
    with pytest.raises(InputError, match="of another network"):
        load_learner(tmp_path, Learner.fresh(other, FitConfig()))
    with pytest.raises(InputError, match="remove it to begin again"):
        load_learner(tmp_path / "nowhere", Learner.fresh(recipe, FitConfig()))


def test_a_pickle_that_runs_code_is_not_read(recipe, tmp_path):
    class Bad:
        def __reduce__(self):
            return (print, ("never",))

    save_learner(tmp_path, Learner.fresh(recipe, FitConfig()))
    torch.save({"optimizer": Bad()}, tmp_path / "learner.pt")
    with pytest.raises(InputError, match="is damaged"):
        load_learner(tmp_path, Learner.fresh(recipe, FitConfig()))
