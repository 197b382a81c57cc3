"""MONAI without what it may use but medray doesn't.

``import monai`` imports whatever of its optional packages is installed, for handlers, trackers and plots: 3.3 s where MLflow,
pandas, scikit-learn and TensorBoard are, against 1.3 s without. Every worker, replica and command pays that before it does
anything. A program that wants MONAI with all of it imports ``monai`` before medray.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["EXTRAS", "without"]

EXTRAS = frozenset(
    (
        "fire",
        "ignite",
        "itk",
        "matplotlib",
        "mlflow",
        "nibabel",
        "nni",
        "optuna",
        "pandas",
        "pydicom",
        "skimage",
        "sklearn",
        "tensorboard",
        "tensorboardX",
        "transformers",
    )
)


class _Hidden(MetaPathFinder):
    def __init__(self, packages: Collection[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Refuse the packages; who may do without them takes that for not installed."""
        if name.partition(".")[0] in self._packages and name not in sys.modules:
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
