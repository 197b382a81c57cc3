"""What a plan says of its network. No torch here, so that plans can be read anywhere."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from medray.config import STRICT
from medray.errors import ConfigError

__all__ = ["NetworkSpec"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NetworkSpec:
    """A network and its size.

    Attributes:
        name: A key of `medray.models.networks.NETWORKS`.
        features: Channels at each depth, finest first.
        norm: ``"batch"`` keeps training statistics at prediction; ``"instance"`` takes each patch's own, and so turns
            the noise of an empty patch into something that looks like tissue.
    """

    name: Literal["dynunet", "unet"] = "unet"
    features: tuple[int, ...] = (32, 64, 128, 256)
    norm: Literal["batch", "instance"] = "batch"

    def __post_init__(self) -> None:
        if len(self.features) < 2 or min(self.features) < 1:
            raise ConfigError(f"features {self.features} must be two or more positive numbers")

    @property
    def divisor(self) -> int:
        """Patch sides must be a multiple of this: one halving between depths."""
        return int(2 ** (len(self.features) - 1))
