"""One member's training, from examples to weights."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acquisition.masks import UNKNOWN
from training.augment import CropSource
from training.config import TrainConfig
from training.errors import TrainingError
from training.examples import Example
from training.networks.network import build_network, logits_and_features

Weights = dict[str, Tensor]
"""One member's state dict."""

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


def fold(key: str, members: int) -> int:
    """The member that never trains on this key: the same on every machine, for good."""
    digest = hashlib.sha256(f"fold:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % members


def training_keys(keys: Sequence[str], members: int, member: int) -> list[str]:
    """The keys that a member trains on, sorted; a lone member trains on all."""
    return sorted(key for key in keys if members == 1 or fold(key, members) != member)


def fit_member(
    examples: Sequence[Example],
    config: TrainConfig,
    member: int,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Weights, History]:
    """Train one member from the pretrained weights.

    On a CPU the same examples, config and member give the same weights bit by bit, whatever
    ran beside it and in whatever order the examples came.

    Args:
        examples: with distinct keys; those of the member's fold are left out.
        config: everything that alters weights.
        member: 0 to M - 1.
        device: where to compute; the GPU if there is one, else the CPU.
        progress: called with steps done and steps in all, after every step.

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
        network = build_network(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.train()
        encoder = pretrained_encoder(network, config)
        held = [] if encoder is None else hold(encoder)
        optimizer = torch.optim.AdamW(parameter_groups(network, config), fused=True)
        weights_C = class_weights(mine, config).to(device)
        source = CropSource(mine, config)

        for step in range(config.steps):
            if step == thaw_step(config):
                release(held)
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


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _seed(config: TrainConfig, member: int) -> int:
    return int(np.random.SeedSequence([config.seed, member]).generate_state(1)[0])


def _gpus(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


@contextmanager
def bounded_threads(threads: int) -> Iterator[None]:
    """Compute with so many threads, in torch and OpenCV, and restore what was before."""
    before, cv2_before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(cv2_before)


def draw_batch(
    source: CropSource, rng: np.random.Generator, batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Images [B, 3, crop, crop] float in [0, 1] and masks [B, crop, crop] int64."""
    crops = [source.draw(rng) for _ in range(batch)]
    images = torch.from_numpy(np.stack([image for image, _ in crops]))
    masks = torch.from_numpy(np.stack([mask for _, mask in crops]).astype(np.int64))
    return images.to(device, memory_format=torch.channels_last), masks.to(device)


def pretrained_encoder(network: nn.Module, config: TrainConfig) -> nn.Module | None:
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


def hold(encoder: nn.Module) -> list[nn.Parameter]:
    """Keep an encoder as it is, its statistics too: a step then takes half the time.

    Returns:
        What was to learn, for ``release``; what a laboratory froze itself stays frozen.
    """
    encoder.eval()
    held = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    return held


def release(held: Sequence[nn.Parameter]) -> None:
    """Let an encoder's weights learn. Its batch norms keep their statistics: those of a few crops
    full of particles are not those of an image (docs/RECIPE.md: a third of the quality lost)."""
    for parameter in held:
        parameter.requires_grad_(True)


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU that has it. On a CPU it made a step of lite0 a tenth slower."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


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


def class_weights(examples: Sequence[Example], config: TrainConfig) -> Tensor:
    """Cross-entropy weights [C]: the inverse root of each class's share of the known pixels.

    None weighs more than ``class_weight_bound`` times the commonest, and a mean pixel weighs 1.
    A class without a pixel weighs as the rarest may.
    """
    C = len(config.classes)
    counts = np.zeros(C)
    for example in examples:
        counts += np.bincount(example.mask[example.mask != UNKNOWN], minlength=C)[:C]
    share = counts / counts.sum()
    rarest = share.max() / config.class_weight_bound**2
    weights = 1 / np.sqrt(np.maximum(share, rarest))
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)


def segmentation_loss(
    logits: Tensor, masks: Tensor, weights_C: Tensor, dice_weight: float
) -> Tensor:
    """Weighted cross-entropy plus Dice loss; 0 where no pixel is known.

    Args:
        logits: [B, C, h, w].
        masks: [B, h, w] int64 class indices; 255 counts nowhere.
        weights_C: [C].
        dice_weight: of the Dice loss.

    Source: Dice: Milletari et al. 2016 (arXiv 1606.04797), over the batch, its absent classes
    left out.
    """
    known = masks != UNKNOWN
    if not bool(known.any()):
        return logits.sum() * 0
    entropy = F.cross_entropy(logits, masks, weight=weights_C, ignore_index=UNKNOWN)
    if dice_weight == 0:
        return entropy
    C = logits.shape[1]
    probs = logits.softmax(dim=1) * known[:, None]
    truth = F.one_hot(masks.clamp_max(C - 1), C).permute(0, 3, 1, 2) * known[:, None]
    shared = (probs * truth).sum(dim=(0, 2, 3))  # [C]
    size = truth.sum(dim=(0, 2, 3))
    total = probs.sum(dim=(0, 2, 3)) + size
    dice_C = (2 * shared + 1) / (total + 1)
    return entropy + dice_weight * (1 - dice_C[size > 0].mean())
