"""MONAI as far as it is used, without what it may use but medray doesn't.

``import monai`` reads every module that it has, many of them twice, and imports whatever of its optional packages is installed,
for handlers, trackers and plots: 3.3 s where MLflow, pandas, scikit-learn and TensorBoard are, against 0.5 s for the networks
alone. Every worker, replica and command pays that before it does anything. A program that wants all of MONAI imports it before
medray.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["EXTRAS", "lean_monai", "without"]

EXTRAS = frozenset(
    (
        "apex",
        "batchgenerators",
        "cucim",
        "cupy",
        "cupyx",
        "cv2",
        "fire",
        "huggingface_hub",
        "ignite",
        "itk",
        "jsonschema",
        "matplotlib",
        "mlflow",
        "nibabel",
        "nni",
        "onnx",
        "optuna",
        "pandas",
        "pydicom",
        "pywt",
        "requests",
        "scipy.optimize",
        "scipy.signal",
        "sklearn",
        "tensorboard",
        "tensorboardX",
        "tensorrt",
        "torch_tensorrt",
        "torchaudio",
        "torchio",
        "torchvision",
        "transformers",
        "zarr",
    )
)
"""Those too that themselves import one of the others, or would be half imported: torchvision brings torch's compiler along.
scikit-image isn't among them: transforms of bundles may need it."""


class _Hidden(MetaPathFinder):
    def __init__(self, packages: Collection[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Refuse the packages; who may do without them takes that for not installed."""
        if name not in sys.modules and any(name == package or name.startswith(f"{package}.") for package in self._packages):
            raise ModuleNotFoundError(f"{name} is left out", name=name)
        return None


@contextmanager
def without(packages: Collection[str]) -> Iterator[None]:
    """Hide packages from what is imported meanwhile; those that are imported already stay."""
    hidden = _Hidden(packages)
    sys.meta_path.insert(0, hidden)
    try:
        yield
    finally:
        sys.meta_path.remove(hidden)


@contextmanager
def lean_monai() -> Iterator[None]:
    """Take what is imported meanwhile from a MONAI that reads only the modules it is asked for, without its `EXTRAS`."""
    with without(EXTRAS):
        walk = pkgutil.walk_packages
        pkgutil.walk_packages = lambda *_, **__: iter(())
        try:
            import monai.apps  # noqa: PLC0415 - first: its modules import one another in circles that close only from here
        finally:
            pkgutil.walk_packages = walk
        monai.utils.module.walk_packages = walk
        yield
