"""Batch norms put into the convolutions before them, for inference."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(network: nn.Module) -> None:
    """Put each batch norm into the convolution before it: the same answers, a third fewer passes.

    Changes the network in place. Relies on a module holding its convolutions and batch norms in
    the order in which they are used, as the networks of ours do.

    Raises:
        TypeError: a batch norm has no convolution before it.
    """
    for module in list(network.modules()):
        before: nn.Module | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                if not isinstance(before, nn.Conv2d):
                    raise TypeError(f"batch norm {name} has no convolution before it")
                _fold(before, child)
                setattr(module, name, nn.Identity())
            before = child


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
