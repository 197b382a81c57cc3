import os
import subprocess
import sys

import pytest

import medray


def test_every_public_name_loads():
    assert medray.__all__ == sorted(medray.__all__)
    for name in medray.__all__:
        assert getattr(medray, name) is not None


def test_unknown_name_is_an_attribute_error():
    assert not hasattr(medray, "no_such_name")


def test_import_loads_neither_torch_nor_ray():
    code = "import sys, medray; print([name for name in ('torch', 'ray', 'pydicom', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.ray
def test_nothing_phones_home():
    """In a process of its own, for MLflow says nothing under pytest anyway."""
    code = """
from medray.engine import join_ray
from medray.registry.registry import Registry
from mlflow.telemetry.client import get_telemetry_client
from mlflow.telemetry.utils import is_telemetry_disabled
from ray._common.usage.usage_lib import usage_stats_enabled
Registry().names()
join_ray()
print(is_telemetry_disabled(), get_telemetry_client() is None, usage_stats_enabled())
"""
    loud = (
        "PYTEST_CURRENT_TEST",
        "CI",
        "GITHUB_ACTIONS",
        "MLFLOW_DISABLE_TELEMETRY",
        "RAY_USAGE_STATS_ENABLED",
        "DO_NOT_TRACK",
    )
    environment = {name: value for name, value in os.environ.items() if name not in loud}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["True", "True", "False"]
