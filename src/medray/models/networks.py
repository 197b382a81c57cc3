"""`build_model`: one explicit table over MONAI's networks.

Every network here maps a patch to a map of the patch's size, whatever it is for: what the map's channels mean is the task's
business. A network that answers more coarsely than it looks (`medray.models.spec.COARSE`) repeats its values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from medray.models.ends import Ends
from medray.models.lean import lean_monai
from medray.models.siamese import Siamese
from medray.models.spade import Generator
from medray.models.spec import TOKEN, NetworkSpec
from medray.types import Shape

with lean_monai():
    from monai.networks.nets import UNETR, DenseNet, DynUNet, ResNet, SegResNet, SwinUNETR, UNet, ViT

__all__ = ["NETWORKS", "build_model"]

GROWTH = 16
"""Channels that a layer of a dense block adds, and how many layers a block has below."""
DENSE_LAYERS = 4


def build_model(spec: NetworkSpec, inputs: int, outputs: int, patch: Shape) -> nn.Module:
    """Build a network, weights fresh.

    Args:
        spec: Which one, how large.
        inputs: Channels of an image.
        outputs: Channels of the answer.
        patch: Voxels of a patch along I, J, K. One along K makes it two-dimensional.

    Returns:
        ``(B, inputs, I, J, K)`` to ``(B, outputs, I, J, K)``; in training, with deep supervision, ``(B, D, outputs, I, J, K)``,
        finest first.
    """
    if patch[2] == 1:
        return Flat(NETWORKS[spec.name](spec, Ends(inputs, outputs, patch[:2])))
    return NETWORKS[spec.name](spec, Ends(inputs, outputs, patch))


class Flat(nn.Module):
    """A network of pictures for volumes of one slice."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Take ``(B, C, I, J, 1)``."""
        answer: torch.Tensor = self.network(image[..., 0])
        return answer[..., None]


class Coarse(nn.Module):
    """A body that makes an image smaller, a linear head at each place that is left, its answer repeated to the image's size.

    Args:
        body: ``(B, C, *sides)`` to ``(B, width, *fewer)``.
        width: Channels of the body's answer.
        ends: Of the whole.
    """

    def __init__(self, body: nn.Module, width: int, ends: Ends) -> None:
        super().__init__()
        self.body = body
        self.head = (nn.Conv2d if ends.dims == 2 else nn.Conv3d)(width, ends.outputs, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return evidence at each place, in voxels of the image."""
        coarse = self.head(self.body(image))
        return nn.functional.interpolate(coarse, size=image.shape[2:], mode="nearest-exact")


class Tokens(nn.Module):
    """A vision transformer that keeps each token's place."""

    def __init__(self, transformer: nn.Module, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.transformer = transformer
        self.grid = grid

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``(B, width, *grid)``."""
        tokens, _ = self.transformer(image)
        placed: torch.Tensor = tokens.transpose(1, 2).unflatten(2, self.grid)
        return placed


def _unet(spec: NetworkSpec, ends: Ends) -> nn.Module:
    """One convolution a depth, the first already strided: coarser and several times as fast."""
    network: nn.Module = UNet(
        spatial_dims=ends.dims,
        in_channels=ends.inputs,
        out_channels=ends.outputs,
        channels=spec.features,
        strides=[2] * (len(spec.features) - 1),
        norm=spec.norm,
    )
    return network


def _dynunet(spec: NetworkSpec, ends: Ends) -> nn.Module:
    """Two convolutions a depth with norm and leaky ReLU (Isensee et al., Nature Methods 18 (2021) 203-211)."""
    depth = len(spec.features)
    network: nn.Module = DynUNet(
        spatial_dims=ends.dims,
        in_channels=ends.inputs,
        out_channels=ends.outputs,
        kernel_size=[3] * depth,
        strides=[1] + [2] * (depth - 1),
        upsample_kernel_size=[2] * (depth - 1),
        filters=list(spec.features),
        norm_name=spec.norm,
        deep_supervision=spec.deep_supervision,
        deep_supr_num=max(1, depth - 2),
    )
    for name in ("input_block", "downsamples", "bottleneck", "upsamples", "deep_supervision_heads"):
        if hasattr(network, name):  # each stands in skip_layers, too, which is what runs: a weight has one name
            delattr(network, name)
    return network


def _segresnet(spec: NetworkSpec, ends: Ends) -> nn.Module:
    """Residual blocks, channels doubling from the first number on (Myronenko, BrainLes 2018, arXiv:1810.11654)."""
    depth = len(spec.features)
    network: nn.Module = SegResNet(
        spatial_dims=ends.dims,
        init_filters=spec.features[0],
        in_channels=ends.inputs,
        out_channels=ends.outputs,
        norm=spec.norm,
        blocks_down=(1,) + (2,) * (depth - 1),
        blocks_up=(1,) * (depth - 1),
    )
    return network


def _unetr(spec: NetworkSpec, ends: Ends) -> nn.Module:
    """A ViT encoder under a convolutional decoder (Hatamizadeh et al., WACV 2022, arXiv:2103.10504)."""
    feature, width = spec.features
    network: nn.Module = UNETR(
        in_channels=ends.inputs,
        out_channels=ends.outputs,
        img_size=ends.sides,
        feature_size=feature,
        hidden_size=width,
        mlp_dim=2 * width,
        num_heads=_heads(width),
        norm_name=spec.norm,
        spatial_dims=ends.dims,
    )
    return _without_unused(network)


def _swinunetr(spec: NetworkSpec, ends: Ends) -> nn.Module:
    """Attention within shifted windows (Hatamizadeh et al., BrainLes 2021, arXiv:2201.01266)."""
    network: nn.Module = SwinUNETR(
        in_channels=ends.inputs,
        out_channels=ends.outputs,
        feature_size=spec.features[0],
        norm_name=spec.norm,
        spatial_dims=ends.dims,
    )
    return network


def _resnet(spec: NetworkSpec, ends: Ends) -> nn.Module:
    """Two residual blocks a depth, each depth halving the image (He et al., CVPR 2016, arXiv:1512.03385)."""
    whole = ResNet(
        block="basic",
        layers=[2] * 4,
        block_inplanes=list(spec.features),
        spatial_dims=ends.dims,
        n_input_channels=ends.inputs,
        conv1_t_size=3,
        conv1_t_stride=2,
        no_max_pool=True,
        norm=(spec.norm, {"affine": True}),
        feed_forward=False,
    )
    body = nn.Sequential(whole.conv1, whole.bn1, whole.act, whole.layer1, whole.layer2, whole.layer3, whole.layer4)
    return Coarse(body, spec.features[-1], ends)


def _densenet(spec: NetworkSpec, ends: Ends) -> nn.Module:
    """Blocks whose layers see all layers before them (Huang et al., CVPR 2017, arXiv:1608.06993)."""
    whole = DenseNet(
        spatial_dims=ends.dims,
        in_channels=ends.inputs,
        out_channels=1,
        init_features=spec.features[0],
        growth_rate=GROWTH,
        block_config=(DENSE_LAYERS,) * len(spec.features),
        norm=spec.norm,
    )
    return Coarse(nn.Sequential(whole.features, nn.ReLU()), whole.class_layers.out.in_features, ends)


def _vit(spec: NetworkSpec, ends: Ends) -> nn.Module:
    """Attention between all tokens of an image (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929)."""
    width = spec.features[0]
    transformer = ViT(
        in_channels=ends.inputs,
        img_size=ends.sides,
        patch_size=TOKEN,
        hidden_size=width,
        mlp_dim=2 * width,
        num_layers=len(spec.features),
        num_heads=_heads(width),
        spatial_dims=ends.dims,
    )
    return Coarse(Tokens(_without_unused(transformer), tuple(side // TOKEN for side in ends.sides)), width, ends)


def _without_unused(transformer: nn.Module) -> nn.Module:
    """Freeze weights that no self-attention uses: DDP would wait for their gradients."""
    for name, weight in transformer.named_parameters():
        if "cross_attn" in name:
            weight.requires_grad_(False)
    return transformer


def _heads(width: int) -> int:
    """Return how many heads share a width: 32 channels each, or one head."""
    return width // 32 if width % 32 == 0 else 1


NETWORKS: dict[str, Callable[[NetworkSpec, Ends], nn.Module]] = {
    "unet": _unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
    "unetr": _unetr,
    "swinunetr": _swinunetr,
    "resnet": _resnet,
    "densenet": _densenet,
    "vit": _vit,
    "siamese": Siamese,
    "spade": Generator,
}
