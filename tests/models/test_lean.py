"""In processes of their own: an import happens once."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.split()


def test_networks_come_without_monai_s_extras():
    code = "import sys, medray.models.networks, medray.tasks.task; print(*(n for n in sys.modules if n.count('.') == 0))"
    loaded = set(run(code))
    assert "monai" in loaded
    assert not loaded & {"cv2", "mlflow", "pandas", "sklearn", "optuna", "tensorboardX", "matplotlib", "requests"}


def test_what_was_left_out_can_be_imported_afterwards():
    assert run("import medray.models.networks, matplotlib, pydicom; print(matplotlib.__name__, pydicom.__name__)") == [
        "matplotlib",
        "pydicom",
    ]


def test_what_was_left_out_of_monai_can_be_imported_afterwards():
    code = """
import medray.models.networks
import pkgutil, scipy.signal, monai.utils.module
from monai.bundle import ConfigParser
from monai.transforms import Spacing
print(monai.utils.module.walk_packages is pkgutil.walk_packages, Spacing.__name__)
"""
    assert run(code) == ["True", "Spacing"]


def test_a_monai_that_was_there_before_stays_whole():
    assert run("import monai, medray.models.networks; print(monai.handlers.StatsHandler.__name__, monai.fl.__name__)") == [
        "StatsHandler",
        "monai.fl",
    ]
