"""A cohort of its own for each test, with its labels in a database of its own."""

import shutil
from pathlib import Path

import pytest

from medray.storage.location import locate


@pytest.fixture
def root(phantom_cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    return locate(Path(shutil.copytree(phantom_cohort.root.path, tmp_path / "cohort")))
