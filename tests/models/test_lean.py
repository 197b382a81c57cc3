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


def test_a_package_that_needs_a_hidden_one_is_not_half_imported(tmp_path):
    """torchvision brings torch's compiler along, which must not be read while packages are hidden."""
    (tmp_path / "torchvision.py").write_text("import torch._dynamo")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import medray.models.networks
print("torchvision" in sys.modules, "torch._dynamo.convert_frame" in sys.modules)
import torchvision, torch._dynamo.convert_frame
print(hasattr(torch._dynamo.convert_frame, "convert_frame"))
"""
    assert run(code) == ["False", "False", "True"]


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
