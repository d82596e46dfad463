"""How good a version is on images that nobody chose, and whether more labels still pay.

Audit images are drawn from the whole pool by chance, asked for at random places and never
learnt from, so what is measured on them is an estimate of the pool without bias.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from training.config import TrainConfig, described
from training.fitting.budget import LIKE_STEPS
from training.quality.metrics import Overlap, PairedDifference, paired_bootstrap

RESAMPLES = 2000

FEWEST_AUDITS = 30
"""No advice before: an interval of fewer is wider than what a round of labels brings."""

EARLIER_ROUNDS = 3
"""Training rounds from one to the other of two versions that are compared: one round's gain drowns
in the training's own chance (docs/RECIPE.md: .03 to .07 of IoU at few labels)."""

FEW_MORE_LABELS = 1.1
"""A version with at most so many times the labels has about the same."""

WORTHWHILE_DICE = 0.01
"""A gain that is surely less than this in so many rounds is not worth an expert's time."""

FEWEST_CHANCE = 15
"""Images drawn by chance that are needed to say that a queue does harm."""

HARM_P = 0.005
"""Harm is looked for after every round: at the usual .025 up to two in five harmless projects would
be alarmed within twenty rounds (1 - .975 ** 20), at this one in ten."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; ``low`` and ``high`` are None where the images have no
    spread that one could be made of."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class AuditEstimate:
    """A version's quality on the audit images.

    Attributes:
        dice: the mean over images of foreground Dice, without bias.
        per_class: class name to Dice over the pixels of all images; None for a class that none
            shows. A ratio of sums is biased by some 1 / images.
        scores: key to foreground Dice.
    """

    dice: Interval
    per_class: Mapping[str, Interval | None]
    scores: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As a version's metrics keep it."""
        return {
            "images": len(self.scores),
            "foreground_dice": self.dice.to_json(),
            "dice": {
                name: None if each is None else each.to_json()
                for name, each in self.per_class.items()
            },
            "scores": dict(self.scores),
        }


def estimate(
    overlaps: Mapping[str, Overlap], classes: Sequence[str], seed: int
) -> AuditEstimate | None:
    """Quality with its 95 % interval; None without any audit image.

    Args:
        overlaps: key to what the version and the annotators saw alike.
        classes: names by index, background first.
        seed: of the bootstrap.
    """
    if not overlaps:
        return None
    keys = sorted(overlaps)
    scores = {key: overlaps[key].foreground_dice() for key in keys}
    dice = _mean_interval(np.array([scores[key] for key in keys]))
    shared = np.stack([overlaps[key].shared for key in keys])
    size = np.stack([overlaps[key].truth + overlaps[key].predicted for key in keys])
    per_class = _pooled_intervals(shared, size, seed)
    return AuditEstimate(dice, dict(zip(classes, per_class, strict=True)), scores)


def _mean_interval(values: NDArray[np.float64]) -> Interval:
    """Student's interval of a mean, cut at 0 and 1; none where all values are the same."""
    mean, n = float(values.mean()), len(values)
    if not np.ptp(values):
        return Interval(mean, None, None)
    half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def _pooled_intervals(
    shared: NDArray[np.int64], size: NDArray[np.int64], seed: int
) -> list[Interval | None]:
    """Dice of each class over all pixels, the images resampled: shared and size [images, C]."""
    n, C = shared.shape
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    # One count of all resamples: each has n numbers of its own.
    places = drawn + n * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(places.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n)
    many_shared, many_size = counts @ shared, counts @ size  # [RESAMPLES, C]
    found: list[Interval | None] = []
    for c in range(C):
        if size[:, c].sum() == 0:
            found.append(None)
            continue
        value = float(2 * shared[:, c].sum() / size[:, c].sum())
        there = many_size[:, c] > 0
        many = 2 * many_shared[there, c] / many_size[there, c]
        low, high = np.percentile(many, (2.5, 97.5))
        # Of one image, or where nothing is ever hit, as though that were certain.
        spread = low < high
        found.append(Interval(value, *((float(low), float(high)) if spread else (None, None))))
    return found


@dataclass(frozen=True)
class Scored:
    """What a promoted version reached, image by image.

    Attributes:
        version: its number.
        round: how many training rounds had made a version before its own.
        labelled: images that taught it.
        audits: audit key to foreground Dice.
        chance: key of an image that was asked for by chance to its foreground Dice, by the
            member that never trained on it.
        out_of_fold: key of a labelled image to foreground Dice by that member.
        truths: key of audit or chance to what names the truth that it was measured against.
        recipe: as of ``recipe_digest``; "" where it is not known.
        steps: of each member.
    """

    version: int
    round: int
    labelled: int
    audits: Mapping[str, float]
    chance: Mapping[str, float]
    out_of_fold: Mapping[str, float]
    truths: Mapping[str, str]
    recipe: str
    steps: int


def recipe_digest(config: TrainConfig) -> str:
    """A name for how a version is made, whatever it is taught, for how long, and whatever chance
    does to it."""
    fields = described(config)
    # The file may lie anywhere, its checksum counts; threads only change the order of sums.
    for name in ("classes", "seed", "steps", "threads", "network_weights"):
        del fields[name]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def like_training(a: Scored, b: Scored) -> bool:
    """Whether labels and chance are all that the two versions differ by, as far as it matters."""
    fewer, more = sorted((a.steps, b.steps))
    return bool(a.recipe) and a.recipe == b.recipe and more <= LIKE_STEPS * fewer


@dataclass(frozen=True)
class Gain:
    """What the labels between two versions brought on the same images.

    Attributes:
        labels: between the two.
        since: the earlier version.
        difference: later minus earlier foreground Dice per image.
    """

    labels: int
    since: int
    difference: PairedDifference

    @property
    def pays(self) -> bool:
        """False if the gain is surely below ``WORTHWHILE_DICE``."""
        return self.difference.high >= WORTHWHILE_DICE

    @property
    def harms(self) -> bool:
        """True if quality surely fell."""
        return self.difference.p_worse < HARM_P


def gain_on_audits(history: Sequence[Scored], seed: int) -> Gain | None:
    """What the last labels brought; None before ``FEWEST_AUDITS`` audits of both versions.

    The last version is compared with the newest of like training that is ``EARLIER_ROUNDS`` or
    more rounds before it and had fewer labels, on the images whose truth is the same: else it
    would not be labels that the difference is owed to.

    Args:
        history: promoted versions, oldest first.
        seed: of the bootstrap.
    """
    return _gain([(each, each.audits) for each in history], FEWEST_AUDITS, seed)


def gain_by_chance(history: Sequence[Scored], seed: int) -> Gain | None:
    """The same on all images that chance chose, audits or not; None before ``FEWEST_CHANCE``.

    More images, and so an earlier warning; out of fold a member learnt from fewer labels than
    the committee, in both versions alike.
    """
    scores = [(each, {**each.chance, **each.audits}) for each in history]
    return _gain(scores, FEWEST_CHANCE, seed)


def _gain(
    history: Sequence[tuple[Scored, Mapping[str, float]]], fewest: int, seed: int
) -> Gain | None:
    if not history:
        return None
    after, second = history[-1]
    earlier = [
        (each, scores)
        for each, scores in history
        if after.round - each.round >= EARLIER_ROUNDS
        and each.labelled < after.labelled
        and like_training(each, after)
    ]
    if not earlier:
        return None
    before, first = earlier[-1]
    keys = sorted(
        key
        for key in first.keys() & second.keys()
        if key in after.truths and before.truths.get(key) == after.truths[key]
    )
    if len(keys) < fewest:
        return None
    difference = paired_bootstrap(
        [first[key] for key in keys], [second[key] for key in keys], seed, RESAMPLES
    )
    return Gain(after.labelled - before.labelled, before.version, difference)


@dataclass(frozen=True)
class LongerTraining:
    """A version that trained for longer, and was better.

    Attributes:
        version: its number; ``steps`` of each of its members.
        mean: by how much it was better, in foreground Dice per image.
        standard_error: of ``mean`` over the images; that of the training is not in it.
        pairs: images.
    """

    version: int
    steps: int
    mean: float
    standard_error: float
    pairs: int


def longer_training(history: Sequence[Scored]) -> LongerTraining | None:
    """The newest version that had clearly more steps than the last one, the same recipe and no
    more than about its labels, if it was better by more than the standard error; else None.

    Both are measured out of fold on the images that taught both. A truth that was edited in
    between counts too: it is one of few.

    Args:
        history: promoted versions, oldest first.
    """
    if not history or not history[-1].recipe:
        return None
    last = history[-1]
    longer = [
        each
        for each in history
        if each.recipe == last.recipe
        and each.steps > LIKE_STEPS * last.steps
        and each.labelled <= FEW_MORE_LABELS * last.labelled
    ]
    if not longer:
        return None
    other = longer[-1]
    keys = sorted(last.out_of_fold.keys() & other.out_of_fold.keys())
    if len(keys) < 2:
        return None
    better = np.array([other.out_of_fold[key] - last.out_of_fold[key] for key in keys])
    mean, error = float(better.mean()), float(better.std(ddof=1) / len(keys) ** 0.5)
    if mean <= error:
        return None
    return LongerTraining(other.version, other.steps, mean, error, len(keys))
