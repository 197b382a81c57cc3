"""By what a prediction is made: where any of it differs, the last bits of another run may."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from medray import __version__
from medray.models.runtime import Runtime

__all__ = ["workbench"]


@cache
def workbench(runtime: Runtime, device: str = "") -> dict[str, Any]:
    """Return fields of a record: ``runtime``, ``machine``, ``device`` and ``software``.

    Args:
        runtime: What runs the network.
        device: On which; a GPU where there is one, by default.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    packages = {"medray": __version__, "torch": torch.__version__}
    if runtime.name == "openvino":
        packages["openvino"] = version("openvino")
    return {
        "runtime": str(runtime),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(place) if place.startswith("cuda") else place,
        "software": ", ".join(f"{name} {number}" for name, number in packages.items()),
    }
