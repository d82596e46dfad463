"""How good a new version is, and how far its probabilities hold."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.committee.calibration import Calibration
from training.committee.committee import BF16_AGREEMENT, Committee
from training.committee.engine import NoEngine
from training.committee.engine_choice import device_of
from training.committee.ensemble import Ensemble
from training.committee.openvino_engine import has_bf16
from training.config import TrainConfig
from training.examples import Example
from training.networks.build import Weights
from training.particles.sizes import typical_diameters
from training.quality.calibrate import expected_calibration_error, fit_calibration, reliability
from training.quality.label_check import LabelCheck
from training.quality.metrics import Overlap
from training.quality.quality import draw_known

log = logging.getLogger(__name__)

CALIBRATION_PX = 20_000
"""Pixels per image that the temperature is fitted on."""

CALIBRATION_VALUES = 16 * CALIBRATION_PX
"""Logits of them per image, where more classes make them more: of 500 images 640 MB."""

AGREEMENT_IMAGES = 8
"""Images that bfloat16 is tried on: some megapixels, so that two in a thousand are many."""


@dataclass(frozen=True)
class Assessment:
    """How good a new version is on the images that taught it, each seen by who never saw it.

    Attributes:
        config: the version's.
        metrics: JSON: temperature, class biases, Dice and IoU per class, reliability, scores per
            image, the typical diameter of each class's particles at the network's resolution.
        scores: key to foreground Dice.
        problems: sentences for what makes it unfit to serve; none if it is sane.
        committee: the version, calibrated.
        predicted: key to the predicted classes of each image that a member never saw, as
            ``LabelCheck`` keeps them; none of a lone member, which saw all.
    """

    config: TrainConfig
    metrics: Mapping[str, Any]
    scores: Mapping[str, float]
    problems: tuple[str, ...]
    committee: Committee
    predicted: Mapping[str, bytes]


def assess(
    weights: Sequence[Weights],
    config: TrainConfig,
    examples: Sequence[Example],
    progress: Callable[[float], None] | None = None,
    *,
    device: torch.device | None = None,
    engine: str = "auto",
    unmeasured: Collection[str] = (),
    groups: Mapping[str, str] | None = None,
) -> Assessment:
    """Measure and calibrate a new version out of fold: on each image only the member that
    never trained on it predicts. A lone member trains on all, and is measured on what it knows;
    ``out_of_fold`` in the metrics says so.

    Args:
        weights: one per member.
        config: what they were trained with.
        examples: those of the version's manifest, at the network's resolution.
        progress: called with the share that is done.
        device: the GPU if there is one, else the CPU.
        engine: of the committee that serves, as for ``Committee``.
        unmeasured: keys of examples that taught but are no test, as what the members began with
            had learnt from them.
        groups: key to the group of an example; the metrics then tell each group's quality.

    Raises:
        ValueError: no example that may be measured.
    """
    measured = [each for each in examples if each.key not in unmeasured]
    if not measured:
        raise ValueError("assess needs at least one example to measure")
    ensemble = Ensemble(weights, config, threads=config.threads, device=device_of(engine, device))
    ordered = sorted(measured, key=lambda each: each.key)
    half = None if progress is None else (lambda share: progress(share / 2))
    logits, truth, image_of = _out_of_fold_pixels(ensemble, ordered, half)
    calibration = _calibrate(logits, truth, config, len(ordered))
    particle_px = {
        config.classes[index]: diameter_px
        for index, diameter_px in typical_diameters(each.mask for each in ordered).items()
    }
    committee = Committee(ensemble, calibration=calibration, engine=engine, particle_px=particle_px)
    C = len(config.classes)
    total = Overlap.none(C)
    scores: dict[str, float] = {}
    shown: set[int] = set()
    check = LabelCheck(config.classes)
    for done, example in enumerate(ordered):
        probs, predicted = committee.out_of_fold(example)
        counts = check.add(example, probs.numpy(), predicted)
        total += counts
        scores[example.key] = counts.foreground_dice()
        shown.update(np.unique(predicted).tolist())
        if progress is not None:
            progress(0.5 + (done + 1) / len(ordered) / 2)
    problems = _problems(weights, total, shown, config)
    unseen = config.members > 1
    metrics: dict[str, Any] = {
        "out_of_fold": unseen,
        "examples": len(examples),
        "dice": _per_class(config, total.dice()),
        "iou": _per_class(config, total.iou()),
        "foreground_dice": float(np.mean(list(scores.values()))),
        "scores": scores,
        "particle_px": particle_px,
        "problems": list(problems),
    }
    if unseen:
        metrics |= check.metrics()
    metrics |= calibration.to_metrics(config.classes)
    metrics |= _reliability(logits, truth, calibration)
    if groups:

        def reliability_of(places: list[int]) -> Mapping[str, Any]:
            mine = torch.isin(image_of, torch.tensor(places, dtype=torch.int64))
            return _reliability(logits[mine], truth[mine], calibration)

        metrics["groups"] = _by_group(groups, examples, scores, reliability_of)
    agreement = None if problems else bf16_agreement(committee, ordered)
    metrics["bf16_agreement"] = agreement
    agrees = agreement is not None and agreement >= BF16_AGREEMENT
    committee = committee.with_bf16(allowed=agrees)
    predicted_png = check.predicted if unseen else {}
    return Assessment(config, metrics, scores, problems, committee, predicted_png)


def bf16_agreement(committee: Committee, examples: Sequence[Example]) -> float | None:
    """Share of the pixels where bfloat16 sees the class that float32 sees, of up to
    ``AGREEMENT_IMAGES`` images; None where the processor does not compute in bfloat16, or
    OpenVINO does not run these members.
    """
    if committee.wants_torch or not has_bf16():
        return None
    try:
        full, half = committee.in_precision("f32"), committee.in_precision("bf16")
        full.prepare()
        half.prepare()
    except NoEngine as error:
        log.warning("not trying bfloat16: %s", error)
        return None
    same = seen = 0
    for example in sorted(examples, key=lambda each: each.key)[:AGREEMENT_IMAGES]:
        agree = full.predict(example.image).predicted == half.predict(example.image).predicted
        same, seen = same + int(agree.sum()), seen + agree.size
    return same / seen


def _per_class(config: TrainConfig, values: NDArray[np.float64]) -> dict[str, float | None]:
    """Values by class name; None for a class that neither truth nor prediction shows."""
    pairs = zip(config.classes, values.tolist(), strict=True)
    return {name: value if np.isfinite(value) else None for name, value in pairs}


def _by_group(
    groups: Mapping[str, str],
    examples: Sequence[Example],
    scores: Mapping[str, float],
    reliability_of: Callable[[list[int]], Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Group to how many of its images taught, and their quality out of fold.

    Args:
        scores: of the images that were measured, in their order.
        reliability_of: what ``_reliability`` says of the images at these places of it.
    """
    taught = Counter(groups[each.key] for each in examples if each.key in groups)
    found = {}
    for name in sorted(taught):
        dice = [score for key, score in scores.items() if groups.get(key) == name]
        places = [place for place, key in enumerate(scores) if groups.get(key) == name]
        reliable = reliability_of(places)
        found[name] = {
            "labelled": taught[name],
            "measured": len(places),
            "foreground_dice": float(np.mean(dice)) if dice else None,
            "ece": reliable["ece"],
            "reliability": reliable["reliability"],
        }
    return found


def _out_of_fold_pixels(
    ensemble: Ensemble, examples: Sequence[Example], progress: Callable[[float], None] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [P, C] and truth [P] of known pixels drawn from all images, and whose they are [P]."""
    logits_of, truth_of = [], []
    rng = np.random.default_rng(ensemble.config.seed)
    calibration_px = min(CALIBRATION_PX, CALIBRATION_VALUES // len(ensemble.config.classes))
    for done, example in enumerate(examples):
        drawn = torch.from_numpy(draw_known(example.mask, calibration_px, rng))
        logits_of.append(ensemble.out_of_fold(example).flatten(1)[:, drawn].T)
        truth_of.append(torch.from_numpy(example.mask).flatten()[drawn].long())
        if progress is not None:
            progress((done + 1) / len(examples))
    counts = torch.tensor([len(each) for each in truth_of])
    image_of = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return torch.cat(logits_of), torch.cat(truth_of), image_of


def _calibrate(logits: Tensor, truth: Tensor, config: TrainConfig, images: int) -> Calibration:
    # A lone member has seen these very pixels: they would teach it to be surer than it should.
    if config.members == 1 or not len(truth) or not torch.isfinite(logits).all():
        return Calibration()
    return fit_calibration(logits, truth, images)


def _reliability(logits: Tensor, truth: Tensor, calibration: Calibration) -> dict[str, Any]:
    if not torch.isfinite(logits).all() or not len(truth):
        return {"ece": None, "ece_uncalibrated": None, "reliability": []}
    probs = calibration.probs(logits, dim=1)
    return {
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
