"""An app for MONAI Label's server: the model of `serve_latency.py` as TorchScript, in transforms as its sample apps have them.

Becomes ``main.py`` of an app's folder, beside ``settings.json``; runs in MONAI Label's environment and never in medray's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
)
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.transform.post import Restored


class Head(BasicInferTask):  # type: ignore[misc]
    """One model."""

    def __init__(self, path: str, labels: dict[str, int], said: dict[str, Any]) -> None:
        super().__init__(path=path, network=None, type=InferType.SEGMENTATION, labels=labels, dimension=3, description="a head")
        self._said = said

    def pre_transforms(self, data: Any = None) -> list[Any]:
        """What comes before the network."""
        return [
            LoadImaged(keys="image"),
            EnsureTyped(keys="image", device=data.get("device") if data else None),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="LPS"),
            Spacingd(keys="image", pixdim=self._said["spacing_mm"]),
            NormalizeIntensityd(keys="image", nonzero=True),
        ]

    def inferer(self, data: Any = None) -> Any:
        """How the network is run."""
        return SlidingWindowInferer(
            roi_size=self._said["roi"], sw_batch_size=self._said["batch"], overlap=self._said["overlap"]
        )

    def inverse_transforms(self, data: Any = None) -> list[Any]:
        """As in the sample apps: `Restored` does it."""
        return []

    def post_transforms(self, data: Any = None) -> list[Any]:
        """What comes after."""
        return [
            EnsureTyped(keys="pred", device=data.get("device") if data else None),
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            Restored(keys="pred", ref_image="image"),
        ]


class MyApp(MONAILabelApp):  # type: ignore[misc]
    """The app."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._folder = Path(app_dir)
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, name="head", description="a head", version="1")

    def init_infers(self) -> dict[str, Any]:
        """The models: one way to run the network each."""
        said = json.loads((self._folder / "settings.json").read_text())
        return {name: Head(str(self._folder / f"{name}.ts"), said["labels"], way) for name, way in said["ways"].items()}
