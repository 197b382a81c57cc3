"""A card and a model folder, and where they go: SQLite and a folder, or MLflow's server with PostgreSQL and S3."""

import contextlib
from pathlib import Path

import pytest

from medray.preprocessing.planning import plan
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.storage.location import locate
from tests.inference.test_predictor import model_folder
from tests.services import mlflow_program, mlflow_server, postgres_server, s3_server

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
SERVED = [
    pytest.mark.services,
    pytest.mark.skipif(not POSTGRES or mlflow_program() is None, reason="postgresql or MLflow's server is not installed"),
]


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres_server(folder, POSTGRES[-1].parent))
        (folder / "s3").mkdir()
        s3 = stack.enter_context(s3_server(folder / "s3"))
        yield stack.enter_context(mlflow_server(folder, database, s3.make_bucket("models"), s3.environment))


@pytest.fixture
def card_and_folder(tmp_path, phantom_cohort):
    card = ModelCard(
        name="ball",
        created="2026-01-01T00:00:00+00:00",
        plan=plan(phantom_cohort),
        scores={"test": {"ball": 0.9}},
        subjects={"train": ("a", "b")},
        lineage={"cohort": "c"},
    )
    return card, locate(model_folder(tmp_path / "model", phantom_cohort))


@pytest.fixture
def stored_in_sqlite(card_and_folder, tmp_path):
    return Registry(f"sqlite:///{tmp_path}/registry.db"), *card_and_folder


@pytest.fixture(params=["sqlite", pytest.param("server", marks=SERVED)])
def stored(request, card_and_folder, tmp_path):
    if request.param == "sqlite":
        yield Registry(f"sqlite:///{tmp_path}/registry.db"), *card_and_folder
        return
    store = Registry(request.getfixturevalue("tracking_server"))
    yield store, *card_and_folder
    for name in store.names():
        store._client.delete_registered_model(name)
