"""What a network makes of an image deep inside: a few numbers that move when images are of another kind.

They cost nothing, for they are on the way to the answer, and they see what no list of measurements foresees.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["Telling", "deepest_layer", "telling"]


class Telling(nn.Module):
    """A network that says, beside its answer, what its deepest layer makes of each image: its channels' means ``(N, F)``.

    Args:
        network: Gives a tensor.
        layer: Of it, from `deepest_layer`.
    """

    def __init__(self, network: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._found = threading.local()
        layer.register_forward_hook(self._keep)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the answer to ``(N, C, …)``, and ``(N, F)``."""
        said = self.network(images)
        return said, self._found.means

    def _keep(self, layer: nn.Module, given: Any, out: torch.Tensor) -> None:
        """Remember a layer's means: of tokens ``(N, T, F)``, or of a map ``(N, F, …)``."""
        self._found.means = out.mean(dim=1) if out.ndim == 3 else out.flatten(2).mean(dim=2)


def telling(network: nn.Module, shape: Sequence[int], device: torch.device) -> nn.Module:
    """Return the network as one that tells of its deepest layer; as it is where it has none.

    Args:
        network: In evaluation mode.
        shape: ``(C, …)`` of an image that it takes.
        device: Where it is.
    """
    layer = deepest_layer(network, torch.zeros(2, *shape, device=device))
    return network if layer is None else Telling(network, layer)


def deepest_layer(network: nn.Module, images: torch.Tensor) -> nn.Module | None:
    """Return the layer that sees an image most as a whole, or None where no layer does.

    Of a transformer it is the last one that gives tokens ``(N, T, F)``; of a convolutional network, of those whose map
    ``(N, F, …)`` is the smallest, the last with the most channels.

    Args:
        network: In evaluation mode.
        images: ``(N, C, …)``, two at least: what gives as many rows whatever N is, isn't about images.
    """
    tokens: list[nn.Module] = []
    maps: list[tuple[int, int, int, nn.Module]] = []

    def look(layer: nn.Module, given: Any, out: Any) -> None:
        if layer is network or not isinstance(out, torch.Tensor) or out.shape[0] != len(images):
            return
        if out.ndim == 3:
            tokens.append(layer)
        elif out.ndim > 3:
            maps.append((out[0, 0].numel(), -out.shape[1], -len(maps), layer))

    hooks = [layer.register_forward_hook(look) for layer in network.modules()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if tokens:
        return tokens[-1]
    return min(maps, key=lambda found: found[:3])[3] if maps else None
