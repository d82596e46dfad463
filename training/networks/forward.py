"""Calling any network: padded to its stride, logits and features back."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 32
"""The encoder halves its input five times; another network may say its own ``stride``."""


def logits_and_features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a member says of images of any size, and what it made of them inside.

    Args:
        network: of ``build_network`` or ``skeleton``.
        images: [B, channels, h, w] float in [0, 1].

    Returns:
        Logits [B, C, h, w], and features [B, F], or None from a network that gives none.
    """
    h, w = images.shape[-2:]
    logits, features = forward_padded(network, pad_to_stride(images, stride_of(network)))
    return logits[..., :h, :w], features


def forward_padded(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """``logits_and_features`` of images whose sides are multiples of the network's stride."""
    own: Callable[[Tensor], tuple[Tensor, Tensor]] | None = getattr(
        network, "logits_and_features", None
    )
    return (network(images), None) if own is None else own(images)


def stride_of(network: nn.Module) -> int:
    """What the sides of its images must be multiples of."""
    return int(getattr(network, "stride", STRIDE))


def pad_to_stride(images: Tensor, stride: int = STRIDE) -> Tensor:
    """Repeat the last row and column until both sides are multiples of the stride."""
    h, w = images.shape[-2:]
    return F.pad(images, (0, -w % stride, 0, -h % stride), mode="replicate")
