"""A generator's step against its rival: least squares (Mao et al., ICCV 2017, arXiv:1611.04076) and matching features.

The rival's features of a generated patch should be those of the real one with the same labels (Wang et al., CVPR 2018,
arXiv:1711.11585, eq. 4), which keeps training steady with few images; but their means around each place (as Salimans et al.,
NeurIPS 2016, arXiv:1606.03498, eq. 1, have them over the image), for where noise lies is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medray.models.ends import Ends
from medray.models.spade import build_rival
from medray.preprocessing.plan import Plan
from medray.tasks.task import task_of
from medray.training.config import FitConfig

__all__ = ["Rival"]

BETAS = (0.5, 0.999)
"""Of Adam, as in the papers: momentum makes two networks that follow each other swing."""
MATCHING = 10.0
"""How much features count beside the verdict, as in Wang et al."""
AROUND = 4
"""Features over which their mean is taken along each axis."""


@dataclass(slots=True, eq=False)
class Rival:
    """The network that tells real from generated, and its own optimizer.

    Attributes:
        model: The bare network.
        wrapped: As it is called when it learns itself.
        optimizer: Adam.
    """

    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def fresh(cls, plan: Plan, config: FitConfig, wrap: Callable[[nn.Module], nn.Module]) -> Rival:
        """Build one for a plan's generator."""
        task, flat = task_of(plan), plan.patch[2] == 1
        model = build_rival(Ends(task.inputs - task.channels, task.channels, plan.patch[:2] if flat else plan.patch))
        wrapped = wrap(model)
        return cls(model, wrapped, torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=BETAS))

    def learn(self, given: torch.Tensor, made: torch.Tensor, real: torch.Tensor) -> None:
        """Take a step towards telling ``made`` from ``real``."""
        shown = torch.cat([_beside(given, real), _beside(given, made.detach())])
        true, false = self.wrapped(shown)[-1].float().chunk(2)
        loss = (functional.mse_loss(true, torch.ones_like(true)) + functional.mse_loss(false, torch.zeros_like(false))) / 2
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def judge(self, given: torch.Tensor, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Return what the generator has to answer for; the rival itself learns nothing from it."""
        self.model.requires_grad_(requires_grad=False)
        try:
            said = self.model(_beside(given, made))
            with torch.no_grad():
                true = self.model(_beside(given, real))
        finally:
            self.model.requires_grad_(requires_grad=True)
        verdict = said[-1].float()
        apart = [functional.l1_loss(_around(a), _around(b)) for a, b in zip(said[:-1], true[:-1], strict=True)]
        return functional.mse_loss(verdict, torch.ones_like(verdict)) + MATCHING * torch.stack(apart).mean()

    def state(self) -> dict[str, Any]:
        """Return weights and optimizer."""
        return {"rival": self.model.state_dict(), "rival_optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved point."""
        self.model.load_state_dict(state["rival"])
        self.optimizer.load_state_dict(state["rival_optimizer"])


def _beside(given: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Put an image beside what it is to show; the noise, as many last channels as it has, is the generator's own business."""
    both = torch.cat([given[:, : -image.shape[1]], image.to(given.dtype)], dim=1)
    return both[..., 0] if both.shape[-1] == 1 else both


def _around(features: torch.Tensor) -> torch.Tensor:
    """Return features' means around each place."""
    pool = functional.avg_pool2d if features.ndim == 4 else functional.avg_pool3d
    return pool(features.float(), [min(AROUND, side) for side in features.shape[2:]])
