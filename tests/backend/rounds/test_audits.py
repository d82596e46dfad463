from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from backend.ledger import Version
from backend.rounds.audits import advice, audit_metrics, describe_audit, harms
from training.config import TrainConfig
from training.examples import Example
from training.quality.audit import FEWEST_AUDITS, FEWEST_CHANCE

CLASSES = ("background", "cell")
TRUTHS = {key: f"truth of {key}" for i in range(40) for key in (str(i), f"c{i}")}


@dataclass
class Seeing:
    """A committee that is right on this share of the cells' rows."""

    share: float

    def predict(self, image):
        predicted = np.zeros(image.shape[:2], np.uint8)
        predicted[: round(self.share * 10)] = 1
        return type("Look", (), {"predicted": predicted})()


@dataclass
class Assessed:
    config: TrainConfig
    committee: Seeing
    scores: dict
    metrics: dict
    problems: tuple = field(default=())


def assessed(share=1.0, scores=None, members=5, problems=(), examples=10):
    config = TrainConfig(CLASSES, members=members)
    return Assessed(config, Seeing(share), scores or {}, {"examples": examples}, problems)


def audit_examples(count):
    mask = np.zeros((20, 20), np.uint8)
    mask[:10] = 1
    return [Example(str(i), np.zeros((20, 20, 3), np.uint8), mask) for i in range(count)]


def version(number, classes, metrics):
    return Version(
        project_id=1,
        number=number,
        round_id=number,
        state="promoted",
        reason="",
        members=5,
        classes=list(classes),
        metrics=metrics,
        created_at=0.0,
    )


def promoted(metrics_of, *assessments):
    """Rows of versions made one after the other."""
    rows = []
    for number, each in enumerate(assessments, start=1):
        metrics = metrics_of(each, rows)
        rows.append(version(number, CLASSES, metrics))
    return rows


def test_without_audits_nothing_is_claimed():
    metrics = audit_metrics(assessed(), [], set(), TRUTHS, [])
    assert metrics["audit"] is None
    assert (describe_audit(metrics), advice(metrics), harms(metrics)) == ("", None, False)


def test_an_unfit_version_is_not_audited():
    metrics = audit_metrics(assessed(problems=("blind",)), audit_examples(2), set(), TRUTHS, [])
    assert metrics["audit"] is None


def test_the_audit_is_told_with_its_interval_overall_and_by_class():
    metrics = audit_metrics(assessed(share=0.5), audit_examples(4), set(), TRUTHS, [])
    dice = pytest.approx(2 / 3)
    assert metrics["audit"]["foreground_dice"] == {"value": dice, "low": dice, "high": dice}
    assert describe_audit(metrics) == (
        "foreground Dice 0.667 (95 % between 0.667 and 0.667) on 4 images drawn by chance; "
        "by class: cell 0.667 (95 % between 0.667 and 0.667)"
    )
    one = audit_metrics(assessed(), audit_examples(1), set(), TRUTHS, [])
    assert describe_audit(one).startswith("foreground Dice 1.000 on 1 image drawn by chance")


def test_labels_that_stopped_paying_are_told_once_thirty_audits_are_there():
    def told(audits):
        rows = promoted(
            lambda each, rows: audit_metrics(each, audit_examples(audits), set(), TRUTHS, rows),
            *(assessed(share=0.9, examples=10 * n) for n in range(1, 5)),
        )
        return advice(rows[-1].metrics)

    assert told(FEWEST_AUDITS - 1) is None
    assert told(FEWEST_AUDITS) == (
        "more labels hardly pay: the last 30 changed foreground Dice by +0.000 (95 % between "
        "+0.000 and +0.000) on 30 audit images."
    )


def test_labels_that_pay_are_left_alone():
    rows = promoted(
        lambda each, rows: audit_metrics(each, audit_examples(FEWEST_AUDITS), set(), TRUTHS, rows),
        *(assessed(share=n / 10, examples=10 * n) for n in range(5, 9)),
    )
    assert rows[-1].metrics["audit_gain"]["pays"]
    assert advice(rows[-1].metrics) is None


def falling(members=5, classes=CLASSES, edited=(), other_network=False):
    """Versions that get worse on the images that chance asked for, and on no other."""
    rows = []
    for number, level in enumerate((0.8, 0.75, 0.7, 0.65), start=1):
        scores = {f"c{i}": level for i in range(FEWEST_CHANCE)} | {"chosen": 0.9}
        chance = {f"c{i}" for i in range(FEWEST_CHANCE)}
        new = assessed(scores=scores, members=members, examples=10 * number)
        if number == 1 and other_network:
            new.config = replace(new.config, network="unet")
        truths = TRUTHS | dict.fromkeys(edited, f"edited before {number}")
        metrics = audit_metrics(new, [], chance, truths, rows)
        rows.append(version(number, classes, metrics))
    return rows[-1].metrics


def test_harm_is_seen_on_what_chance_asked_for():
    metrics = falling()
    assert harms(metrics)
    assert "made it worse: foreground Dice -0.150" in advice(metrics)
    assert "chosen" not in metrics["chance_scores"]


def test_a_lone_member_is_not_measured_on_what_it_learnt():
    assert falling(members=1)["chance_scores"] == {}
    assert not harms(falling(members=1))


def test_a_truth_that_was_edited_in_between_is_no_harm_done():
    assert harms(falling(edited=()))
    assert falling(edited=["c0"])["chance_gain"] is None  # one fewer than needed


def test_another_network_in_between_is_no_harm_done_by_labels():
    assert falling(other_network=True)["chance_gain"] is None


def test_what_an_earlier_release_measured_is_compared_with_nothing():
    rows = promoted(
        lambda each, rows: audit_metrics(each, audit_examples(FEWEST_AUDITS), set(), TRUTHS, rows),
        *(assessed(examples=10 * n) for n in range(1, 4)),
    )
    for row in rows:
        del row.metrics["truths"], row.metrics["recipe"]
    new = assessed(examples=40)
    metrics = audit_metrics(new, audit_examples(FEWEST_AUDITS), set(), TRUTHS, rows)
    assert metrics["audit_gain"] is None
    assert metrics["truths"].keys() == metrics["audit"]["scores"].keys()


def test_versions_of_other_classes_are_not_compared():
    assert not harms(falling(classes=("background", "crystal")))
