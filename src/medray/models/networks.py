"""`build_model`: one explicit table over MONAI's networks."""

from __future__ import annotations

from collections.abc import Callable

from monai.networks.nets import DynUNet, UNet
from torch import nn

from medray.models.spec import NetworkSpec

__all__ = ["NETWORKS", "build_model"]


def build_model(spec: NetworkSpec, in_channels: int, out_channels: int) -> nn.Module:
    """Build a segmentation network: ``(B, in, I, J, K)`` to logits ``(B, out, I, J, K)``, weights fresh."""
    return NETWORKS[spec.name](spec, in_channels, out_channels)


def _dynunet(spec: NetworkSpec, in_channels: int, out_channels: int) -> nn.Module:
    """Two convolutions a depth with norm and leaky ReLU (Isensee et al., Nature Methods 18 (2021) 203-211)."""
    depth = len(spec.features)
    network: nn.Module = DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * depth,
        strides=[1] + [2] * (depth - 1),
        upsample_kernel_size=[2] * (depth - 1),
        filters=list(spec.features),
        norm_name=spec.norm,
    )
    return network


def _unet(spec: NetworkSpec, in_channels: int, out_channels: int) -> nn.Module:
    """One convolution a depth, the first already strided: coarser and several times as fast."""
    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=spec.features,
        strides=[2] * (len(spec.features) - 1),
        norm=spec.norm,
    )
    return network


NETWORKS: dict[str, Callable[[NetworkSpec, int, int], nn.Module]] = {
    "dynunet": _dynunet,
    "unet": _unet,
}
