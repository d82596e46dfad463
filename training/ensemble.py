"""The committee: members that look at an image together, and whether a new one may serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from acquisition.aggregate import aggregate
from acquisition.uncertainty import uncertainty_maps
from training.calibrate import expected_calibration_error, fit_temperature, reliability
from training.config import UNKNOWN, TrainConfig
from training.data import Example, Image8, shrink
from training.fit import Weights, bounded_threads, default_device, fold
from training.metrics import Overlap, PairedDifference, overlap, paired_bootstrap
from training.network import skeleton
from training.version import DamagedVersion, read_version

STRIP_PX = 1 << 19
"""Pixels of the full-size image enlarged at once: with 9 classes 19 MB."""

CALIBRATION_PX = 20_000
"""Pixels per image that the temperature is fitted on: neighbours say much the same."""

MARGIN_DICE = 0.02
SIGNIFICANCE = 0.05
"""A new version is withheld if it is worse by more than the one at less than the other."""


@dataclass(frozen=True)
class Look:
    """What a committee sees in one image.

    Attributes:
        size: H, W of the image.
        probs: [C, h, w] float32, the members' mean, calibrated, at the network's resolution.
        predicted: [h, w] uint8 class indices.
        maps: the measures of ``acquisition.uncertainty.MEASURES``, each [h, w] float32.
        arms: "measure/aggregate" to the image's score.
    """

    size: tuple[int, int]
    probs: NDArray[np.float32]
    predicted: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.float32]]
    arms: Mapping[str, float]

    def mask(self) -> NDArray[np.uint8]:
        """[H, W] class indices: the likeliest class of the enlarged probabilities."""
        return self._enlarged[0]

    def confidence(self) -> NDArray[np.float32]:
        """[H, W] probability of the winning class, in steps of 1/255."""
        return cast(NDArray[np.float32], self._enlarged[1] / np.float32(255))

    @cached_property
    def _enlarged(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        mask, confidence = np.empty(self.size, np.uint8), np.empty(self.size, np.uint8)
        for rows, probs in self._strips():
            highest, winner = probs.max(dim=0)
            mask[rows] = winner.to(torch.uint8).numpy()
            confidence[rows] = (highest * 255).round_().to(torch.uint8).numpy()
        return mask, confidence

    def _strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the image and their probabilities [C, rows, W], enlarged without seams."""
        H, W = self.size
        h = self.probs.shape[1]
        probs = torch.from_numpy(self.probs)
        for top in range(0, H, max(1, STRIP_PX // W)):
            rows = np.arange(top, min(top + max(1, STRIP_PX // W), H))
            # Pixel centres lie at halves, as in torch's interpolation of the columns.
            at = np.clip((rows + 0.5) * h / H - 0.5, 0, h - 1)
            above = np.floor(at).astype(np.int64)
            below = np.minimum(above + 1, h - 1)
            share = torch.from_numpy((at - above).astype(np.float32))[:, None]
            strip = torch.lerp(probs[:, above], probs[:, below], share)  # [C, rows, w]
            wide = F.interpolate(strip[None], (len(rows), W), mode="bilinear", align_corners=False)
            yield slice(top, top + len(rows)), wide[0]


class Committee:
    """A version, loaded.

    Attributes:
        config: what it was trained with.
        version: its number; 0 if it was never saved.
        temperature: divides the logits.
    """

    @classmethod
    def load(
        cls, folder: Path, *, threads: int = 1, device: torch.device | None = None
    ) -> Committee:
        """Load a version from its folder.

        Raises:
            UnknownVersion: there is none.
            DamagedVersion: a file is not what was saved.
            BadConfig: another release wrote it.
        """
        stored = read_version(folder)
        return cls(
            stored.weights,
            stored.config,
            temperature=float(stored.metrics["temperature"]),
            version=stored.number,
            threads=threads,
            device=device,
        )

    def __init__(
        self,
        weights: Sequence[Weights],
        config: TrainConfig,
        *,
        temperature: float = 1.0,
        version: int = 0,
        threads: int = 1,
        device: torch.device | None = None,
    ) -> None:
        """
        Args:
            weights: one per member.
            config: what they were trained with.
            temperature: divides the logits.
            version: its number.
            threads: of one look on the CPU.
            device: the GPU if there is one, else the CPU.

        Raises:
            DamagedVersion: the weights do not fit the configuration.
        """
        if len(weights) != config.members:
            raise DamagedVersion(f"expected {config.members} members, got {len(weights)}")
        self.config, self.temperature, self.version = config, temperature, version
        self.threads, self.device = threads, device or default_device()
        self._members = [self._load_member(m, member) for m, member in enumerate(weights)]

    def _load_member(self, number: int, weights: Weights) -> nn.Module:
        member = skeleton(self.config)
        try:
            member.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise DamagedVersion(
                f"member {number} does not fit the network {self.config.network!r} "
                f"with {len(self.config.classes)} classes: {error}"
            ) from error
        member.eval().requires_grad_(requires_grad=False)
        fold_batch_norms(member)
        return member.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @torch.inference_mode()
    def member_probs(self, image: Image8) -> NDArray[np.float32]:
        """Each member's calibrated probabilities [M, C, h, w] of an image [H, W, 3] uint8."""
        return self._member_probs(image).cpu().numpy()

    def _member_probs(self, image: Image8) -> Tensor:
        with bounded_threads(self.threads):
            x = self._input(image)
            probs = torch.empty(
                len(self._members), len(self.config.classes), *x.shape[2:], device=self.device
            )
            for member, out in zip(self._members, probs, strict=True):
                logits = member(x)[0]
                torch.softmax(logits.contiguous() / self.temperature, dim=0, out=out)
        return probs

    @torch.inference_mode()
    def logits(self, image: Image8, member: int) -> Tensor:
        """One member's logits [C, h, w], not divided by the temperature, on the CPU."""
        with bounded_threads(self.threads):
            return cast(Tensor, self._members[member](self._input(image))[0]).contiguous().cpu()

    def _input(self, image: Image8) -> Tensor:
        """[1, 3, h, w] in [0, 1] at the network's resolution."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image must be [H, W, 3] uint8, got {image.shape} {image.dtype}")
        small = shrink(image, self.config.max_side_px).astype(np.float32)
        x = torch.from_numpy(small / 255).permute(2, 0, 1)[None]
        return x.to(self.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def look(self, image: Image8) -> Look:
        """See an image [H, W, 3] uint8: classes, doubt per pixel, and the scores of all arms."""
        probs = self._member_probs(image)  # [M, C, h, w]
        with bounded_threads(self.threads):
            maps = uncertainty_maps(probs[:, None])
            mean_probs = probs.mean(dim=0)
            predicted = mean_probs.argmax(dim=0).to(torch.uint8)
            arms = aggregate(maps, predicted[None])
        return Look(
            (image.shape[0], image.shape[1]),
            mean_probs.cpu().numpy(),
            predicted.cpu().numpy(),
            {name: map_[0].float().cpu().numpy() for name, map_ in maps.items()},
            {name: float(scores[0]) for name, scores in arms.items()},
        )

    def out_of_fold(self, example: Example) -> tuple[Tensor, NDArray[np.uint8]]:
        """Logits [C, h, w] and classes [h, w] by the member that never trains on this key."""
        logits = self.logits(example.image, fold(example.key, self.config.members))
        return logits, logits.argmax(dim=0).to(torch.uint8).numpy()


def fold_batch_norms(network: nn.Module) -> None:
    """Put each batch norm into the convolution before it: the same answers, a third fewer passes.

    Relies on a module holding its convolutions and batch norms in the order they are used.
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


@dataclass(frozen=True)
class Assessment:
    """How good a new version is on the images that taught it, each seen by who never saw it.

    Attributes:
        config: the version's.
        metrics: JSON: temperature, Dice and IoU per class, calibration, scores per image.
        scores: key to foreground Dice.
        problems: sentences for what makes it unfit to serve; none if it is sane.
    """

    config: TrainConfig
    metrics: Mapping[str, Any]
    scores: Mapping[str, float]
    problems: tuple[str, ...]


def assess(
    weights: Sequence[Weights],
    config: TrainConfig,
    examples: Sequence[Example],
    progress: Callable[[float], None] | None = None,
    *,
    device: torch.device | None = None,
) -> Assessment:
    """Measure and calibrate a new version out of fold: on each image only the member that
    never trained on it looks. A lone member trains on all, and is measured on what it knows;
    ``out_of_fold`` in the metrics says so.

    Args:
        weights: one per member.
        config: what they were trained with.
        examples: those of the version's manifest, at the network's resolution.
        progress: called with the share that is done.
        device: the GPU if there is one, else the CPU.

    Raises:
        ValueError: no examples.
    """
    if not examples:
        raise ValueError("assess needs at least one example")
    committee = Committee(weights, config, threads=config.threads, device=device)
    C = len(config.classes)
    total: Overlap | None = None
    scores: dict[str, float] = {}
    logits_of, truth_of = [], []
    shown: set[int] = set()
    rng = np.random.default_rng(config.seed)
    for done, example in enumerate(sorted(examples, key=lambda each: each.key)):
        logits, predicted = committee.out_of_fold(example)
        counts = overlap(example.mask, predicted, C)
        total = counts if total is None else total + counts
        scores[example.key] = counts.foreground_dice()
        shown.update(np.unique(predicted).tolist())
        known = np.flatnonzero(example.mask != UNKNOWN)
        drawn = torch.from_numpy(rng.choice(known, min(len(known), CALIBRATION_PX), replace=False))
        logits_of.append(logits.flatten(1)[:, drawn].T)
        truth_of.append(torch.from_numpy(example.mask).flatten()[drawn].long())
        if progress is not None:
            progress((done + 1) / len(examples))
    assert total is not None
    problems = _problems(weights, total, shown, config)
    metrics: dict[str, Any] = {
        "out_of_fold": config.members > 1,
        "examples": len(examples),
        "dice": _per_class(config, total.dice()),
        "iou": _per_class(config, total.iou()),
        "foreground_dice": float(np.mean(list(scores.values()))),
        "scores": scores,
        "problems": list(problems),
    }
    metrics |= _calibration(torch.cat(logits_of), torch.cat(truth_of), config)
    return Assessment(config, metrics, scores, problems)


def _per_class(config: TrainConfig, values: NDArray[np.float64]) -> dict[str, float | None]:
    """Values by class name; None for a class that neither truth nor prediction shows."""
    pairs = zip(config.classes, values.tolist(), strict=True)
    return {name: value if np.isfinite(value) else None for name, value in pairs}


def _calibration(logits: Tensor, truth: Tensor, config: TrainConfig) -> dict[str, Any]:
    if not torch.isfinite(logits).all() or not len(truth):
        return {"temperature": 1.0, "ece": None, "ece_uncalibrated": None, "reliability": []}
    # A lone member has seen these very pixels: they would teach it to be surer than it should.
    temperature = fit_temperature(logits, truth) if config.members > 1 else 1.0
    probs = (logits / temperature).softmax(dim=1)
    return {
        "temperature": temperature,
        "ece": expected_calibration_error(probs, truth),
        "ece_uncalibrated": expected_calibration_error(logits.softmax(dim=1), truth),
        "reliability": reliability(probs, truth),
    }


def _problems(
    weights: Sequence[Weights], total: Overlap, shown: set[int], config: TrainConfig
) -> tuple[str, ...]:
    found = [
        f"member {m} holds weights that are not finite"
        for m, member in enumerate(weights)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in member.values())
    ]
    in_truth = total.truth > 0
    if in_truth.sum() > 1 and len(shown) == 1:
        found.append(f"it sees nothing but {config.classes[shown.pop()]!r} in every image")
    elif in_truth[1:].any():
        blind = 2 * total.truth[0] / (total.truth[0] + total.truth.sum()) / in_truth.sum()
        mean_dice = float(np.nan_to_num(total.dice())[in_truth].mean())
        if mean_dice < blind:
            found.append(
                f"its mean Dice over classes is {mean_dice:.3f}, "
                f"that of seeing only background {blind:.3f}"
            )
    return tuple(found)


@dataclass(frozen=True)
class Verdict:
    """Whether a new version may serve, with the sentence that says why.

    Attributes:
        difference: new minus old foreground Dice per image; None where they were not compared.
    """

    promote: bool
    reason: str
    difference: PairedDifference | None = field(default=None)


def compare(
    old: Committee | None, new: Assessment, examples: Sequence[Example], seed: int
) -> Verdict:
    """Promote a new version unless it is insane or clearly worse than the one that serves.

    Worse means by more than ``MARGIN_DICE`` in foreground Dice per image with p below
    ``SIGNIFICANCE``, by a paired bootstrap over the examples, each seen by either version's
    member that never trained on it. Without an old version, or with other classes or another
    number of members, only the sanity of the new one counts.

    Args:
        old: the version that serves, if any.
        new: of the version that wants to.
        examples: those that ``new`` was assessed on.
        seed: of the bootstrap.
    """
    if new.problems:
        return Verdict(False, "The new version is unfit: " + "; ".join(new.problems) + ".")
    if old is None:
        return Verdict(True, "The first version, and it is sane.")
    if old.config.classes != new.config.classes:
        return Verdict(True, "The classes changed, and the new version is sane.")
    if old.config.members != new.config.members or new.config.members == 1:
        return Verdict(True, "No member of both is new to the same images; the version is sane.")
    C = len(new.config.classes)
    before = {
        each.key: overlap(each.mask, old.out_of_fold(each)[1], C).foreground_dice()
        for each in examples
    }
    keys = sorted(new.scores)
    difference = paired_bootstrap(
        [before[key] for key in keys], [new.scores[key] for key in keys], seed
    )
    worse = difference.p_worse < SIGNIFICANCE and difference.mean < -MARGIN_DICE
    return Verdict(
        not worse,
        f"Foreground Dice changed by {difference.mean:+.3f} "
        f"(95 % between {difference.low:+.3f} and {difference.high:+.3f}, "
        f"{difference.pairs} images): {'clearly worse' if worse else 'not clearly worse'}.",
        difference,
    )
