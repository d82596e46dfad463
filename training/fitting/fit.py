"""One member's training, from examples to weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from acquisition.masks import UNKNOWN
from training.augment import CropSource
from training.compute import bounded_threads, default_device
from training.config import TrainConfig
from training.errors import TrainingError
from training.examples import Example
from training.fitting.adamw import AdamW
from training.fitting.folds import training_keys
from training.fitting.loss import class_weights, segmentation_loss
from training.fitting.schedule import (
    encoder_to_freeze,
    freeze,
    one_cycle,
    parameter_groups,
    thaw_step,
    unfreeze,
)
from training.fitting.start import Start, begin_with
from training.networks.build import Weights, build_network
from training.networks.forward import logits_and_features

GRADIENT_NORM = 5.0
"""Longer gradients are shortened to this: an odd crop must not throw a short training off."""


class NotEnoughExamples(TrainingError):
    """A member has nothing to learn from."""


class NonFiniteLoss(TrainingError):
    """A training diverged."""


@dataclass(frozen=True)
class History:
    """How a training went.

    Attributes:
        loss: one per step.
        seconds: wall time; it decides nothing.
        keys: of the examples that were trained on.
    """

    loss: tuple[float, ...]
    seconds: float
    keys: tuple[str, ...]


def fit_member(
    examples: Sequence[Example],
    config: TrainConfig,
    member: int,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    start: Start | None = None,
) -> tuple[Weights, History]:
    """Train one member from the pretrained weights, or from another member's.

    On a CPU the same examples, config and member give the same weights bit by bit, whatever
    ran beside it and in whatever order the examples came.

    Args:
        examples: with distinct keys; those of the member's fold are left out.
        config: everything that alters weights.
        member: 0 to M - 1.
        device: where to compute; the GPU if there is one, else the CPU.
        progress: called with steps done and steps in all, after every step.
        start: what to begin with in place of the pretrained weights; ``config.start`` names it.

    Returns:
        Weights on the CPU in float32, and the history.

    Raises:
        NotEnoughExamples: none is left outside the member's fold, or none shows a known pixel.
        NonFiniteLoss: the loss became infinite or NaN.
        ValueError: a mask holds an index that is no class, or a key comes twice.
    """
    device = device or default_device()
    mine = _examples_of(examples, config, member)
    started = time.perf_counter()
    losses: list[float] = []
    with bounded_threads(config.threads), torch.random.fork_rng(devices=_gpus(device)):
        torch.manual_seed(_seed(config, member))
        rng = np.random.default_rng([config.seed, member])
        network = build_network(config)
        if start is not None:
            begin_with(network, start, config)
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.train()
        encoder = encoder_to_freeze(network, config)
        frozen = [] if encoder is None else freeze(encoder)
        optimizer = AdamW(parameter_groups(network, config), fused=True)
        weights_C = class_weights(mine, config).to(device)
        source = CropSource(mine, config)

        for step in range(config.steps):
            if step == thaw_step(config):
                unfreeze(frozen)
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * one_cycle(step, config.steps, config.warmup)
            images, masks = draw_batch(source, rng, config.batch, device)
            with mixed_precision(device):
                logits, _ = logits_and_features(network, images)
            loss = segmentation_loss(logits.float(), masks, weights_C, config.dice_weight)
            if not math.isfinite(loss.item()):
                raise NonFiniteLoss(
                    f"member {member}'s loss is {loss.item()} at step {step} of {config.steps}: "
                    f"lower encoder_lr ({config.encoder_lr}) or decoder_lr ({config.decoder_lr})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimizer.step()
            losses.append(loss.item())
            if progress is not None:
                progress(step + 1, config.steps)

    weights = {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in network.state_dict().items()
    }
    history = History(
        tuple(losses), time.perf_counter() - started, tuple(example.key for example in mine)
    )
    return weights, history


def _examples_of(examples: Sequence[Example], config: TrainConfig, member: int) -> list[Example]:
    if not 0 <= member < config.members:
        raise ValueError(f"member must lie between 0 and {config.members - 1}, got {member}")
    by_key = {example.key: example for example in examples}
    if len(by_key) != len(examples):
        raise ValueError(f"{len(examples)} examples have only {len(by_key)} distinct keys")
    for example in examples:
        known = example.mask[example.mask != UNKNOWN]
        if known.size and known.max() >= len(config.classes):
            raise ValueError(
                f"the mask of {example.key} holds class {known.max()}, "
                f"there are {len(config.classes)} classes: {', '.join(config.classes)}"
            )
    keys = training_keys(list(by_key), config.members, member)
    mine = [by_key[key] for key in keys if bool((by_key[key].mask != UNKNOWN).any())]
    if not mine:
        raise NotEnoughExamples(
            f"member {member} of {config.members} has no labelled image to learn from: of "
            f"{len(examples)}, {len(examples) - len(keys)} are held back to test it and "
            f"{len(keys)} have no known pixel. Label a few more images."
        )
    return mine


def _seed(config: TrainConfig, member: int) -> int:
    return int(np.random.SeedSequence([config.seed, member]).generate_state(1)[0])


def _gpus(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


def draw_batch(
    source: CropSource, rng: np.random.Generator, batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Images [B, 3, crop, crop] float in [0, 1] and masks [B, crop, crop] int64."""
    crops = [source.draw(rng) for _ in range(batch)]
    images = torch.from_numpy(np.stack([image for image, _ in crops]))
    masks = torch.from_numpy(np.stack([mask for _, mask in crops]).astype(np.int64))
    return images.to(device, memory_format=torch.channels_last), masks.to(device)


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU that has it. On a CPU it made a step of lite0 a tenth slower."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
