"""A registry with two versions of a segmentation, ``ball``, a detection, ``spots``, and a diagnosis, ``finds``."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medray
from medray.imaging.transitions import Transitions
from medray.models.spec import NetworkSpec
from medray.registry.card import ModelCard
from medray.storage.location import locate
from tests.inference.test_predictor import model_folder, untrained
from tests.phantoms import grid, orientations, phantom
from tests.serving.chromium import browser  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def home(phantom_cohort, tmp_path_factory):
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(place))
        store = medray.Registry()
        for folder, name, facts in (
            ("one", "ball", {}),
            ("two", "ball", {"seed": 1}),
            ("three", "spots", {"task": "detection", "targets": ["core"], "target_weights": [1.0]}),
        ):
            register(store, name, model_folder(place / folder, phantom_cohort, **facts))
        finds = replace(
            medray.Predictor.load(place / "one").plan, task="diagnosis", targets=("ball", "core"), target_weights=(1.0, 1.0)
        )
        register(store, "finds", untrained(place / "four", finds))
        store.promote("ball/1")
    return place


def register(store, name, model):
    card = ModelCard(name=name, created="2026-01-01", plan=medray.Predictor.load(model).plan, scores={}, subjects={})
    store.register(card, locate(model))


def register_change(home, phantom_cohort):
    """Add an untrained progression of balls, ``change``, once."""
    store = medray.Registry()
    if "change" in store.names():
        return
    ball = medray.Predictor.load(home / "one").plan
    labels = Transitions(("ball",))
    facts: dict[str, Any] = {
        "task": "progression",
        "labels": labels.schema,
        "targets": tuple(labels.schema.names),
        "target_weights": (1.0,) * labels.states**2,
        "channels": 2,
        "network": NetworkSpec(name="siamese", features=(4, 8)),
    }
    register(store, "change", untrained(home / "five", replace(ball, **facts)))


@pytest.fixture
def scan():
    return phantom(np.random.default_rng(3), grid(list(orientations())[20], (2.0, 2.0, 2.5), (5, 4, 3)))[0]


@pytest.fixture
def root(home, phantom_cohort, monkeypatch, tmp_path):
    """A cohort of its own, with its labels in a database of its own."""
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    return Path(shutil.copytree(phantom_cohort.root.path, tmp_path / "cohort"))
