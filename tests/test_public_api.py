import subprocess
import sys

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
