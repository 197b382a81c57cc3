"""What a plan says of its network. No torch here, so that plans can be read anywhere."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from medray.config import STRICT
from medray.errors import ConfigError
from medray.types import Shape

__all__ = ["COARSE", "COMPARER", "FEATURES", "GENERATOR", "TOKEN", "NetworkName", "NetworkSpec"]

NetworkName = Literal["unet", "dynunet", "segresnet", "unetr", "swinunetr", "resnet", "densenet", "vit", "siamese", "spade"]
COARSE: tuple[NetworkName, ...] = ("resnet", "densenet", "vit")
"""Networks whose answer is coarser than their input: they say what is in an image, not where to the voxel."""
COMPARER: NetworkName = "siamese"
"""The network that compares two time points."""
GENERATOR: NetworkName = "spade"
"""The network that makes images of label maps."""
TOKEN = 8
"""Voxels of the side of a vision transformer's token."""
DEPTHS: dict[NetworkName, int] = {"unetr": 2, "swinunetr": 4, "resnet": 4}
FEATURES: dict[NetworkName, tuple[int, ...]] = {
    "unet": (32, 64, 128, 256),
    "dynunet": (32, 64, 128, 256),
    "segresnet": (16, 32, 64, 128),
    "unetr": (16, 192),
    "swinunetr": (12, 24, 48, 96),
    "resnet": (16, 32, 64, 128),
    "densenet": (32, 64, 128),
    "vit": (96, 96, 96, 96),
    "siamese": (8, 16, 32, 64),
    "spade": (8, 16, 32),
}
"""What a plan starts from: sizes that two cores train in minutes."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NetworkSpec:
    """A network and its size.

    Attributes:
        name: A key of `medray.models.networks.NETWORKS`.
        features: Channels at each depth, finest first. Of a ViT: the width of each layer, all equal. Of a UNETR: channels of
            its finest depth, and its transformer's width. Of a SwinUNETR and a SegResNet: doubling. Of a DenseNet the first
            is what counts, as its blocks grow by themselves.
        norm: ``"batch"`` keeps training statistics at prediction; ``"instance"`` takes each patch's own, and so turns
            the noise of an empty patch into something that looks like tissue. Transformers have layer norms of their own.
        deep_supervision: Whether coarser depths are trained to answer, too; of DynUNets.
    """

    name: NetworkName = "unet"
    features: tuple[int, ...] = FEATURES["unet"]
    norm: Literal["batch", "instance"] = "batch"
    deep_supervision: bool = False

    def __post_init__(self) -> None:
        if len(self.features) < 2 or min(self.features) < 1:
            raise ConfigError(f"features {self.features} must be two or more positive numbers")
        if self.name == "dynunet" and len(self.features) < 3:
            raise ConfigError(f"features {self.features}: a dynunet has three or more")
        depths = DEPTHS.get(self.name, len(self.features))
        if len(self.features) != depths:
            raise ConfigError(f"features {self.features}: a {self.name} has {depths} of them")
        if self.name == "vit" and len(set(self.features)) > 1:
            raise ConfigError(f"features {self.features}: all layers of a vit are equally wide")
        doubling = tuple(self.features[0] * 2**depth for depth in range(len(self.features)))
        if self.name in ("swinunetr", "segresnet") and self.features != doubling:
            raise ConfigError(f"features {self.features}: a {self.name} doubles its channels at each depth")
        if self.deep_supervision and self.name != "dynunet":
            raise ConfigError(f"deep_supervision: a {self.name} answers at one depth only; use a dynunet")

    @property
    def divisor(self) -> int:
        """Patch sides must be a multiple of this, sides of one voxel apart: those of pictures."""
        halvings = {"unetr": 4, "swinunetr": 5, "resnet": 4, "densenet": len(self.features) + 1}
        return TOKEN if self.name == "vit" else 2 ** halvings.get(self.name, len(self.features) - 1)

    @property
    def stride(self) -> int:
        """Voxels of an image's side that one answer is for: 1 but for coarse networks, which repeat theirs so often."""
        return self.divisor if self.name in COARSE else 1

    @property
    def extends(self) -> bool:
        """Whether it answers on images larger than the patches it learned from as it does on those."""
        return self.name in ("unet", "dynunet", "segresnet", "resnet", "densenet", COMPARER, GENERATOR) and self.norm == "batch"

    def fits(self, patch: Shape) -> bool:
        """Tell whether a network can work on patches of this size."""
        return all(side > 0 and side % self.divisor == 0 for side in patch[:2]) and (
            patch[2] == 1 or (patch[2] > 0 and patch[2] % self.divisor == 0)
        )
