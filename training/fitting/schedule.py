"""Learning rates, and when a pretrained encoder learns too."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from training.config import TrainConfig


def encoder_to_freeze(network: nn.Module, config: TrainConfig) -> nn.Module | None:
    """The part that has learnt before, and is not to be spoilt by what has not; None without.

    Nor is there one where nothing else would be left to learn.
    """
    learnt = config.network in ("lite0", "shared") or bool(config.network_weights)
    encoder = getattr(network, "encoder", None)
    if not learnt or not isinstance(encoder, nn.Module):
        return None
    inside = {id(parameter) for parameter in encoder.parameters()}
    others = (p for p in network.parameters() if p.requires_grad and id(p) not in inside)
    return encoder if any(True for _ in others) else None


def thaw_step(config: TrainConfig) -> int:
    """The step at which the encoder begins to learn; beyond the last for one that is shared."""
    return config.steps if config.network == "shared" else int(config.thaw * config.steps)


def freeze(encoder: nn.Module) -> list[nn.Parameter]:
    """Keep an encoder as it is, its statistics too: a step then takes half the time.

    Returns:
        What was to learn, for ``unfreeze``; what a laboratory froze itself stays frozen.
    """
    encoder.eval()
    frozen = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def unfreeze(frozen: Sequence[nn.Parameter]) -> None:
    """Let an encoder's weights learn. Its batch norms keep their statistics: those of a few crops
    full of particles are not those of an image (docs/RECIPE.md: a third of the quality lost)."""
    for parameter in frozen:
        parameter.requires_grad_(True)


def parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, object]]:
    """Pretrained parameters learn slower; biases and batch-norm scales do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        rate = config.encoder_lr if name.startswith("encoder.") else config.decoder_lr
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """The share of the peak rate: up along a cosine while warming up, then down to almost 0.

    Source: Smith and Topin 2018 (arXiv 1708.07120).
    """
    rise = warmup * steps
    at = step + 0.5
    if at < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * at / rise)) / 2
    return 1e-3 + 0.999 * (1 + math.cos(math.pi * (at - rise) / (steps - rise))) / 2
