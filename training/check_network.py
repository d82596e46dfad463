"""The test kit for a laboratory's own network: all that docs/NETWORKS.md asks of it, tried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.committee.committee import Committee
from training.committee.engine import NoEngine
from training.committee.ensemble import Ensemble
from training.committee.version import load_weights, save_weights
from training.compute import bounded_threads
from training.config import BadConfig, TrainConfig
from training.errors import TrainingError
from training.examples import Example
from training.fitting.fit import fit_member
from training.fitting.loss import segmentation_loss
from training.networks.build import skeleton
from training.networks.forward import logits_and_features
from training.networks.own_network import start_from, weights_digest

SIZES = ((1, 1), (33, 20), (96, 64), (70, 131))
"""Heights and widths that a network must take: odd, small, and not square."""

TRIAL_STEPS = 30
"""Enough for any network that learns at all to halve its loss on two bright squares."""


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        passed: None where nothing is demanded and the sentence only informs.
    """

    name: str
    passed: bool | None
    said: str


class _Failed(Exception):
    """A check's sentence."""


def check_network(
    network: str,
    *,
    weights: Path | None = None,
    classes: int = 3,
    channels: int = 3,
    threads: int = 1,
) -> Iterator[Check]:
    """Try all that a committee does with its network; stops where nothing more can be tried.

    Args:
        network: a name of ours, or ``package.module:factory``.
        weights: the file that members start from.
        classes: background included.
        channels: of the images.
        threads: to compute with.
    """
    try:
        config = TrainConfig(
            ("background", *(f"class {c}" for c in range(1, classes))),
            network=network,
            channels=channels,
            members=1,
            steps=TRIAL_STEPS,
            thaw=0.5,  # both kinds of step are tried, with the encoder held and without
            batch=2,
            crop_px=64,
            threads=threads,
        )
        torch.manual_seed(0)
        member = skeleton(config)
        if weights is not None:
            config = replace(
                config,
                network_weights=str(weights.resolve()),
                network_weights_sha256=weights_digest(weights),
            )
            fresh = start_from(member, weights, config.network_weights_sha256)
            yield Check(
                "weights",
                True,
                f"{weights} fits; {len(fresh)} tensors begin fresh"
                + (f": {', '.join(fresh[:4])}{' ...' if len(fresh) > 4 else ''}" if fresh else ""),
            )
    except (TrainingError, BadConfig) as error:
        yield Check("made", False, str(error))
        return
    parameters = sum(p.numel() for p in member.parameters())
    yield Check(
        "made", True, f"{type(member).__name__} of {parameters / 1e6:.2f} million parameters"
    )
    with bounded_threads(threads):
        usable = True
        for name, function in _CHECKS.items():
            check = _try(name, lambda f=function: f(member, config))  # type: ignore[misc]
            usable = usable and check.passed is not False
            yield check
        if usable:
            yield from _trained(config)


def _try(name: str, function: Callable[[], str]) -> Check:
    try:
        return Check(name, True, function())
    except _Failed as failed:
        return Check(name, False, str(failed))
    # The laboratory's code runs inside: it may fail in any way.
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _images(batch: int, config: TrainConfig, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size) + batch)
    return torch.rand(batch, config.channels, *size, generator=generator)


def _sizes(member: nn.Module, config: TrainConfig) -> str:
    member.eval()
    for size in SIZES:
        with torch.inference_mode():
            logits, _ = logits_and_features(member, _images(2, config, size))
        wanted = (2, len(config.classes), *size)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise _Failed(
                f"images {(2, config.channels, *size)} must give logits {wanted}, got {got}: if "
                "the network halves its input more than five times, give it the attribute `stride`"
            )
        if not logits.is_floating_point() or not bool(torch.isfinite(logits).all()):
            raise _Failed(f"logits must be finite floating-point numbers, got {logits.dtype}")
    return f"logits of the image's size at {', '.join(f'{h}x{w}' for h, w in SIZES)}"


def _logits(member: nn.Module, config: TrainConfig) -> str:
    with torch.inference_mode():
        logits, _ = logits_and_features(member.eval(), _images(2, config, (64, 96)))
    sums = logits.sum(dim=1)
    if bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        raise _Failed("it answers probabilities; leave the softmax out, we apply it ourselves")
    return "raw logits, no softmax"


def _same_again(member: nn.Module, config: TrainConfig) -> str:
    images = _images(3, config, (64, 96))
    with torch.inference_mode():
        member.eval()
        together, _ = logits_and_features(member, images)
        again, _ = logits_and_features(member, images)
        alone, _ = logits_and_features(member, images[1:2])
    if not torch.equal(together, again):
        raise _Failed("two predictions of the same images differ in eval(): is dropout left on?")
    apart = float((together[1:2] - alone).abs().max())
    if apart > 1e-2:
        raise _Failed(
            f"an image's logits change by {apart:.3f} with what is beside it in the batch: in "
            "eval() nothing may be computed over the batch"
        )
    return "eval() gives an image the same answer each time, whatever is beside it"


def _features(member: nn.Module, config: TrainConfig) -> str:
    with torch.inference_mode():
        _, features = logits_and_features(member.eval(), _images(2, config, (64, 96)))
    if features is None:
        return "no logits_and_features: class shares stand in for features"
    if features.ndim != 2 or len(features) != 2 or not bool(torch.isfinite(features).all()):
        raise _Failed(f"features must be finite and [B, F], got {tuple(features.shape)}")
    return f"{features.shape[1]} features an image"


def _gradients(member: nn.Module, config: TrainConfig) -> str:
    C = len(config.classes)
    masks = torch.randint(C, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    logits, _ = logits_and_features(member.train(), _images(2, config, (64, 64)))
    segmentation_loss(logits, masks, torch.ones(C), 1.0).backward()  # type: ignore[no-untyped-call]
    wanting = [n for n, p in member.named_parameters() if p.requires_grad and p.grad is None]
    learning = [n for n, p in member.named_parameters() if p.grad is not None]
    member.zero_grad(set_to_none=True)
    if not learning:
        raise _Failed("the loss reaches no parameter: is the answer detached?")
    if wanting:
        raise _Failed(
            f"the loss does not reach {len(wanting)} parameters, first {wanting[0]!r}: freeze them "
            "(requires_grad_(False)) or use them"
        )
    slow = sum(name.startswith("encoder.") for name in learning)
    return f"{len(learning)} tensors learn, {slow} of them at the encoder's lower rate"


def _saved(member: nn.Module, config: TrainConfig) -> str:
    weights = {name: value.contiguous() for name, value in member.state_dict().items()}
    other = skeleton(config)
    other.load_state_dict(load_weights(save_weights(weights)), strict=True)
    images = _images(1, config, (64, 96))
    with torch.inference_mode():
        before, _ = logits_and_features(member.eval(), images)
        after, _ = logits_and_features(other.eval(), images)
    apart = float((before.softmax(dim=1) - after.softmax(dim=1)).abs().max())
    if apart > 0.05:
        raise _Failed(
            f"saved (kernels in fp16) and loaded again, probabilities change by {apart:.3f}: all "
            "that the answer depends on must be in the state dict"
        )
    return f"saved and loaded again it says the same (probabilities within {apart:.4f})"


def _class_counts(member: nn.Module, config: TrainConfig) -> str:
    for C in (2, 7):
        names = ("background", *(f"class {c}" for c in range(1, C)))
        with torch.inference_mode():
            other = skeleton(replace(config, classes=names)).eval()
            logits, _ = logits_and_features(other, _images(1, config, (64, 64)))
        if logits.shape[1] != C:
            raise _Failed(f"made for {C} classes it answers {logits.shape[1]}")
    return "made for 2 and for 7 classes it answers as many"


_CHECKS: dict[str, Callable[[nn.Module, TrainConfig], str]] = {
    "sizes": _sizes,
    "logits": _logits,
    "eval": _same_again,
    "features": _features,
    "gradients": _gradients,
    "saving": _saved,
    "classes": _class_counts,
}


def _trained(config: TrainConfig) -> Iterator[Check]:
    """A short training, and what serves."""
    committee: list[Committee] = []

    def train() -> str:
        weights, history = fit_member(_squares(config), config, 0, torch.device("cpu"))
        committee.append(Committee(Ensemble([weights], config, device=torch.device("cpu"))))
        first, last = history.loss[0], float(np.mean(history.loss[-3:]))
        if not last < 0.9 * first:
            raise _Failed(
                f"{TRIAL_STEPS} steps on bright squares brought the loss from {first:.2f} to "
                f"{last:.2f} only: does it learn?"
            )
        per_step_ms = 1e3 * history.seconds / TRIAL_STEPS
        return (
            f"the loss fell from {first:.2f} to {last:.2f}; {per_step_ms:.0f} ms a step of 2 crops"
        )

    yield _try("training", train)
    if not committee:
        return
    try:
        _ = committee[0].openvino_model
    except NoEngine as error:
        yield Check("OpenVINO", None, f"torch serves it, more slowly: {error}")
    else:
        yield Check("OpenVINO", True, "the same answers as torch")
    image = np.zeros((512, 512, config.channels), np.uint8)
    committee[0].predict(image)
    started = time.perf_counter()
    committee[0].predict(image)
    taken_ms = 1e3 * (time.perf_counter() - started)
    engine = committee[0].engine
    yield Check(
        "predicting",
        None,
        f"{taken_ms:.0f} ms for one member at 512x512, uncertainty included ({engine.name}, "
        f"{config.threads} threads)",
    )


def _squares(config: TrainConfig) -> list[Example]:
    """Two images of noise in which each class is a square of its own brightness."""
    rng = np.random.default_rng(0)
    C = len(config.classes)
    examples = []
    for number in range(2):
        mask = np.zeros((96, 96), np.uint8)
        for c in range(1, C):
            row, column = rng.integers(0, 64, 2)
            mask[row : row + 32, column : column + 32] = c
        grey = 40 + 200 * mask.astype(np.float64) / max(1, C - 1) + rng.normal(0, 8, mask.shape)
        image = np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(config.channels, axis=2)
        examples.append(Example(f"squares {number}", image, mask))
    return examples
