import pytest

from medray.preprocessing.planning import plan
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.storage.location import locate
from tests.inference.test_predictor import model_folder


@pytest.fixture
def stored(tmp_path, phantom_cohort):
    folder = locate(model_folder(tmp_path / "model", phantom_cohort))
    card = ModelCard(
        name="ball",
        created="2026-01-01T00:00:00+00:00",
        plan=plan(phantom_cohort),
        scores={"test": {"ball": 0.9}},
        subjects={"train": ("a", "b")},
        lineage={"cohort": "c"},
    )
    store = Registry(f"sqlite:///{tmp_path}/registry.db")
    return store, card, folder
