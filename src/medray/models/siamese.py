"""A network that compares two time points: one encoder sees each of them, one decoder sees both at every depth.

After the fully convolutional siamese networks of Daudt et al., ICIP 2018, arXiv:1810.08462, in three dimensions; unlike there
no time point is preferred: the decoder works on both orders, and their answers are averaged with the table of transitions
turned over. So exchanging the images exchanges what was lost and what was gained, whatever the weights are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from medray.errors import ConfigError
from medray.models.ends import Ends
from medray.models.lean import lean_monai
from medray.models.spec import NetworkSpec

with lean_monai():
    from monai.networks.blocks.convolutions import Convolution

__all__ = ["Siamese"]


class Siamese(nn.Module):
    """``(B, inputs, *sides)``, the earlier time point's channels first, to ``(B, outputs, *sides)``.

    The outputs are of transitions between ``m`` states, ``m²`` of them: that from ``b`` to ``a`` is channel ``b + m·a``.

    Args:
        spec: Its features, finest first.
        ends: What it is between.

    Raises:
        ConfigError: If inputs aren't of two time points, or outputs no table of transitions.
    """

    def __init__(self, spec: NetworkSpec, ends: Ends) -> None:
        super().__init__()
        self.states = math.isqrt(ends.outputs)
        if ends.inputs % 2 or self.states**2 != ends.outputs:
            raise ConfigError(
                f"a siamese network compares two time points; {ends.inputs} channels to {ends.outputs} aren't that"
            )
        self.each = ends.inputs // 2
        widths = spec.features
        self.encoder = nn.ModuleList(
            _block(spec, ends, before, width, stride=1 if depth == 0 else 2)
            for depth, (before, width) in enumerate(zip((self.each, *widths[:-1]), widths, strict=True))
        )
        self.joints = nn.ModuleList(_block(spec, ends, 2 * width, width, layers=1) for width in widths)
        self.decoder = nn.ModuleList(_block(spec, ends, coarse + fine, fine) for fine, coarse in pairwise(widths))
        self.head = (nn.Conv2d if ends.dims == 2 else nn.Conv3d)(widths[0], ends.outputs, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the evidence for each transition at each voxel."""
        count = len(image)
        depths = self._encoded(torch.cat([image[:, : self.each], image[:, self.each :]]))
        forth = [torch.cat([features[:count], features[count:]], dim=1) for features in depths]
        back = [torch.cat([features[count:], features[:count]], dim=1) for features in depths]
        said = self._decoded([torch.cat(pair) for pair in zip(forth, back, strict=True)])
        return (said[:count] + self._turned(said[count:])) / 2

    def _encoded(self, image: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for block in self.encoder:
            image = block(image)
            found.append(image)
        return found

    def _decoded(self, depths: Sequence[torch.Tensor]) -> torch.Tensor:
        joined = [joint(features) for joint, features in zip(self.joints, depths, strict=True)]
        features = joined[-1]
        for fine, block in zip(joined[-2::-1], reversed(self.decoder), strict=True):
            features = block(torch.cat([nn.functional.interpolate(features, scale_factor=2.0, mode="nearest"), fine], dim=1))
        evidence: torch.Tensor = self.head(features)
        return evidence

    def _turned(self, evidence: torch.Tensor) -> torch.Tensor:
        """Exchange before and after."""
        batch, _, *sides = evidence.shape
        return evidence.reshape(batch, self.states, self.states, *sides).transpose(1, 2).reshape(evidence.shape)


def _block(spec: NetworkSpec, ends: Ends, before: int, width: int, *, stride: int = 1, layers: int = 2) -> nn.Module:
    """Convolutions with norm and activation, the first one strided."""
    return nn.Sequential(
        *(
            Convolution(
                ends.dims,
                before if layer == 0 else width,
                width,
                strides=stride if layer == 0 else 1,
                norm=spec.norm,
                act="leakyrelu",
            )
            for layer in range(layers)
        )
    )
