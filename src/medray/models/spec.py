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
    """

    name: Literal["dynunet", "unet"] = "dynunet"
    features: tuple[int, ...] = (12, 24, 48, 96)

    def __post_init__(self) -> None:
        if len(self.features) < 2 or min(self.features) < 1:
            raise ConfigError(f"features {self.features} must be two or more positive numbers")

    @property
    def divisor(self) -> int:
        """Patch sides must be a multiple of this: one halving between depths."""
        return int(2 ** (len(self.features) - 1))
