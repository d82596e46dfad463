"""Whether a new version may serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.committee.committee import Committee
from training.examples import Example
from training.images import nearest
from training.quality.assessment import Assessment
from training.quality.metrics import PairedDifference, overlap, paired_bootstrap

MARGIN_DICE = 0.02

SIGNIFICANCE = 0.05
"""A new version is withheld if it is worse by more than the one at less than the other."""


def _at_size_of(example: Example, old: Committee) -> NDArray[np.uint8]:
    """What the old version sees out of fold, which may be smaller: ``max_side_px`` was raised."""
    _, predicted = old.out_of_fold(example)
    h, w = example.mask.shape
    return nearest(predicted, h, w)


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
        examples: those that ``new`` was assessed on; others among them are not compared.
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
        each.key: overlap(each.mask, _at_size_of(each, old), C).foreground_dice()
        for each in examples
        if each.key in new.scores
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
