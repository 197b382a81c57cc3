"""A network in shards: each worker holds a part of every weight, of its gradient and of the optimizer's moments.

Fully sharded data parallel (Zhao et al., VLDB 2023, arXiv:2304.11277; ZeRO's third stage, Rajbhandari et al., SC 2020,
arXiv:1910.02054): for networks that a GPU can't train whole. What is validated and saved is the whole network, gathered once an
epoch; without gradients and moments a quarter of the memory is enough for it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

__all__ = ["Whole", "spread"]


def spread(model: nn.Module, device: torch.device) -> nn.Module:
    """Split a network over all workers, in place: each block of its lists by itself, then what is left.

    Weights must be equal on all workers.
    """
    model.to(device)
    if not distributed.is_initialized():  # a worker alone has nobody to share with
        return model
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return what stands in the network's lists of blocks, the innermost first."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = [block for found in reversed(lists) for block in found if not isinstance(block, nn.ModuleList)]
    return [block for block in blocks if any(True for _ in block.parameters())]


@dataclass(slots=True, eq=False)
class Whole:
    """What a network in shards is together.

    Attributes:
        model: A copy of it, on each worker.
        optimizer: Its optimizer's state, on the first worker.
    """

    model: nn.Module
    optimizer: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Whole:
        """Copy a network before it is spread."""
        return cls(copy.deepcopy(model).requires_grad_(False))

    def gather(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Bring the copy up to date; all workers must call this together."""
        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        self.model.load_state_dict(weights)
        self.optimizer = get_optimizer_state_dict(
            model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )

    def scatter(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        weights: Mapping[str, torch.Tensor],
        state: Mapping[str, Any],
    ) -> None:
        """Give every worker its part of a saved point, however many workers saved it."""
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(model, dict(weights), options=options)
        set_optimizer_state_dict(model, optimizer, dict(state), options=options)
        self.model.load_state_dict(weights)
        self.optimizer = dict(state)
