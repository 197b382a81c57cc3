"""Fixtures that every room shares. Ray's authentication is decided here, before anything imports Ray."""

import os
import tempfile

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["MEDRAY_KEY"] = "5a" * 32
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["MEDRAY_HOME"] = tempfile.mkdtemp(prefix="medray-home-")  # of what fixtures do for whole modules
os.environ["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"] = "0.25"  # as medray sets it for a cluster of its own
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MEDRAY_KEY_FILE"):
    os.environ.pop(name, None)

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.phantoms import write_phantoms  # noqa: E402

LONG = ("cluster", "ray", "services", "browser", "slow")


def pytest_collection_modifyitems(items):
    """Begin with the files whose tests take long, so that two processes end at about the same time."""
    long = {item.path for item in items if any(item.get_closest_marker(name) for name in LONG)}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def phantom_source(tmp_path_factory):
    """Nine subjects: NIfTI and DICOM in turn, every orientation, two labels."""
    return write_phantoms(tmp_path_factory.mktemp("source"), subjects=9)


@pytest.fixture(scope="module")
def local_ray():
    """A private two-core cluster, ended with the module."""
    import ray

    ray.shutdown()
    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR", object_store_memory=300 << 20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def phantom_cohort(phantom_source, tmp_path_factory):
    """The phantoms as a cohort, taken in by the plain functions without Ray."""
    from tests.phantoms import take_in_all

    return take_in_all(phantom_source, tmp_path_factory.mktemp("cohort"))
