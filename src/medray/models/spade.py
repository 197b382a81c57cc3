"""A generator of images from label maps, and the network that it is trained against.

Labels steer each depth of the generator through spatially adaptive normalisation (Park et al., CVPR 2019, arXiv:1903.07291);
the rival judges patches (Isola et al., CVPR 2017, arXiv:1611.07004). Both are made of MONAI's blocks. The generator is
convolutional all through, with batch norm: what it makes of a patch is what it makes of that part of a whole.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medray.models.ends import Ends
from medray.models.lean import lean_monai
from medray.models.spec import NetworkSpec

with lean_monai():
    from monai.networks.blocks.spade_norm import SPADE
    from monai.networks.nets import PatchDiscriminator
    from monai.networks.nets.spade_network import SPADENetResBlock

__all__ = ["Generator", "build_rival"]

RIVAL_CHANNELS = 16


class Generator(nn.Module):
    """``(B, inputs, *sides)``, label channels and what else steers, to an image ``(B, outputs, *sides)``.

    Args:
        spec: Its features, finest first.
        ends: What it is between.
    """

    def __init__(self, spec: NetworkSpec, ends: Ends) -> None:
        super().__init__()
        convolution = nn.Conv2d if ends.dims == 2 else nn.Conv3d
        widths = spec.features[::-1]
        self.first = convolution(ends.inputs, widths[0], kernel_size=3, padding=1)
        self.depths = nn.ModuleList(
            SPADENetResBlock(
                spatial_dims=ends.dims,
                in_channels=before,
                out_channels=width,
                label_nc=ends.inputs,
                spade_intermediate_channels=width,
                norm=(spec.norm, {"affine": False}),
            )
            for before, width in zip(widths[:1] + widths[:-1], widths, strict=True)
        )
        for module in self.depths.modules():
            if isinstance(module, SPADE):  # MONAI normalises scale and shift over the image, which the paper doesn't
                module.mlp_gamma, module.mlp_beta = module.mlp_gamma.conv, module.mlp_beta.conv
        self.last = convolution(widths[-1], ends.outputs, kernel_size=3, padding=1)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Start at the coarsest depth and double the sides after each but the last."""
        coarse = 2 ** (len(self.depths) - 1)
        features = self.first(functional.interpolate(given, scale_factor=1 / coarse, mode="nearest"))
        for depth, block in enumerate(self.depths):
            if depth:
                features = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(features, given)
        image: torch.Tensor = self.last(functional.leaky_relu(features, 0.2))
        return image


def build_rival(ends: Ends) -> nn.Module:
    """Build the network that tells real from generated: ``(B, inputs + outputs, *sides)`` to features, its verdict last."""
    rival: nn.Module = PatchDiscriminator(
        spatial_dims=ends.dims,
        channels=RIVAL_CHANNELS,
        in_channels=ends.inputs + ends.outputs,
        num_layers_d=2,
        norm="INSTANCE",
    )
    return rival
