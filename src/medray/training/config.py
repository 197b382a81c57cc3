"""What a person may say about a fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray.config import STRICT
from medray.errors import ConfigError

__all__ = ["FitConfig"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FitConfig:
    """Length, pace and seed of a fit; what is learned stands in the plan.

    Attributes:
        epochs: Each ends with a validation and a checkpoint.
        steps: Optimizer steps an epoch.
        accumulate: Batches whose gradients make one step.
        learning_rate: The highest; AdamW's.
        weight_decay: AdamW's.
        warmup: Steps of linear rise before the fall.
        fall: ``"poly"``: (1 - t)^0.9; ``"cosine"``: half a cosine.
        average: Decay of a running mean of the weights, which is what is validated and kept; 0 for none.
        clip: Gradients are scaled down to this norm.
        mixed: bfloat16 where torch's autocast has it.
        channels_last: Whether voxels' channels lie side by side in memory; by default on GPUs alone, where the network of a
            plan takes half the time so (`benchmarks/gpu_step.py`).
        shard: Whether workers hold a part of the network each, not all of it: for networks too large for one GPU.
        compile: Whether torch compiles the network; needs a C++ compiler on a CPU.
        augment: Whether patches are changed at random.
        seed: Of weights, patches and augmentation.
        picture: Whether each epoch leaves a picture of a validation case.
        keep: Checkpoints that are kept: the best ones, and the latest.
        max_failures: How often a broken worker group is started again from its last checkpoint.
    """

    epochs: int = Field(default=50, ge=1)
    steps: int = Field(default=100, ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup: int = Field(default=20, ge=0)
    fall: Literal["poly", "cosine"] = "poly"
    average: float = Field(default=0.0, ge=0, lt=1)
    clip: float = Field(default=5.0, gt=0)
    mixed: bool = True
    channels_last: bool | None = None
    shard: bool = False
    compile: bool = False
    augment: bool = True
    seed: int = Field(default=0, ge=0)
    picture: bool = True
    keep: int = Field(default=1, ge=1)
    max_failures: int = Field(default=2, ge=0)

    def __post_init__(self) -> None:
        if self.shard and self.average:
            raise ConfigError(f"average={self.average:g} needs a second whole network: leave it out, or shard")

    def settled(self, *, gpu: bool) -> FitConfig:
        """Return it with what the device decides, where nothing was said."""
        return replace(self, channels_last=gpu) if self.channels_last is None else self
