from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from backend.ledger import Version
from backend.rounds.audits import advice, audit_metrics, describe_audit, harms, training
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


def assessed(share=1.0, scores=None, members=5, problems=(), examples=10, steps=200):
    config = TrainConfig(CLASSES, members=members, steps=steps)
    return Assessed(config, Seeing(share), scores or {}, {"examples": examples}, problems)


def audit_examples(count):
    mask = np.zeros((20, 20), np.uint8)
    mask[:10] = 1
    return [Example(str(i), np.zeros((20, 20, 3), np.uint8), mask) for i in range(count)]


def version(number, classes, metrics, state="promoted"):
    return Version(
        project_id=1,
        number=number,
        round_id=number,
        state=state,
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
        metrics = {
            **metrics_of(each, rows),
            "scores": each.scores,
            "out_of_fold": each.config.members > 1,
        }
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
    # All four audits agree, so nothing is known of the spread.
    assert metrics["audit"]["foreground_dice"] == {"value": dice, "low": None, "high": None}
    assert describe_audit(metrics) == (
        "foreground Dice 0.667 on 4 images drawn by chance; by class: cell 0.667"
    )
    spread = {"value": 0.7, "low": 0.6, "high": 0.75}
    metrics["audit"] |= {"foreground_dice": spread, "dice": {"background": None, "cell": spread}}
    assert describe_audit(metrics) == (
        "foreground Dice 0.700 (95 % between 0.600 and 0.750) on 4 images drawn by chance; "
        "by class: cell 0.700 (95 % between 0.600 and 0.750)"
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


def falling(members=5, classes=CLASSES, edited=(), other_network=False, first_steps=200):
    """Versions that get worse on the images that chance asked for, and on no other."""
    rows = []
    for number, level in enumerate((0.8, 0.75, 0.7, 0.65), start=1):
        scores = {f"c{i}": level for i in range(FEWEST_CHANCE)} | {"chosen": 0.9}
        chance = {f"c{i}" for i in range(FEWEST_CHANCE)}
        new = assessed(scores=scores, members=members, examples=10 * number)
        if number == 1:
            network = "unet" if other_network else new.config.network
            new.config = replace(new.config, network=network, steps=first_steps)
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


def test_only_rounds_that_made_a_version_are_counted():
    """One that was kept counts as a round; nothing is compared with it."""
    rows = promoted(
        lambda each, rows: audit_metrics(each, audit_examples(FEWEST_AUDITS), set(), TRUTHS, rows),
        *(assessed(share=0.9, examples=10 * n) for n in range(1, 4)),
    )
    new = assessed(share=0.9, examples=40)

    def since(former):
        gain = audit_metrics(new, audit_examples(FEWEST_AUDITS), set(), TRUTHS, former)
        return gain["audit_gain"] and gain["audit_gain"]["since"]

    assert since(rows) == 1
    assert since(rows[:2]) is None
    kept = [rows[0], *(version(row.number, CLASSES, row.metrics, "kept") for row in rows[1:])]
    assert since(kept) == 1
    withdrawn = version(1, CLASSES, rows[0].metrics, "withdrawn")
    assert since([withdrawn, *rows[1:]]) is None


def test_harm_is_not_seen_where_an_earlier_version_trained_for_longer():
    assert falling(first_steps=240)["chance_gain"]["harms"]
    assert falling(first_steps=600)["chance_gain"] is None


# How long the training was


def budget(**changed):
    found = {"steps": 200, "knee": 740, "images": 20, "seconds": 40.0, "step_s": 0.2}
    return {"budget": {**found, "chosen": False, "cost": "a key", **changed}}


def stopped_paying(**changed):
    rows = promoted(
        lambda each, rows: audit_metrics(each, audit_examples(FEWEST_AUDITS), set(), TRUTHS, rows),
        *(assessed(share=0.9, examples=10 * n) for n in range(1, 5)),
    )
    return {**rows[-1].metrics, **budget(**changed)}


def test_where_training_is_too_short_it_is_the_limit_and_not_the_labels():
    assert advice(stopped_paying()) == (
        "the training is the limit, not the labels: the last 30 changed foreground Dice by +0.000 "
        "(95 % between +0.000 and +0.000) on 30 audit images, and a member trains for 200 steps, "
        "740 would pay for 20 labelled images. Set FIT_SECONDS=148."
    )
    assert advice(stopped_paying(chosen=True)).endswith("Set steps=740.")
    for enough in (592, 740, 900):
        assert advice(stopped_paying(steps=enough)).startswith("more labels hardly pay: the last")


def test_before_labels_stop_paying_nothing_is_claimed_of_them():
    metrics = audit_metrics(assessed(), [], set(), TRUTHS, [])
    assert advice({**metrics, **budget()}) == (
        "longer training would help: a member trains for 200 steps, "
        "740 would pay for 20 labelled images. Set FIT_SECONDS=148."
    )
    assert advice({**metrics, **budget(steps=740)}) is None


def test_a_version_that_trained_for_longer_and_was_better_makes_training_the_limit():
    def metrics_of(each, rows):
        return audit_metrics(each, [], set(), TRUTHS, rows)

    levels = [(900, 0.8), (200, 0.75)]
    rows = promoted(
        metrics_of,
        *(
            assessed(scores={f"o{i}": level + i / 1000 for i in range(9)}, steps=steps)
            for steps, level in levels
        ),
    )
    assert rows[0].metrics["longer_training"] is None
    metrics = {**rows[1].metrics, **budget(knee=900)}
    assert advice(metrics) == (
        "the training is the limit, not the labels: version 1, of 900 steps a member instead of "
        "200, was better by 0.050 foreground Dice (standard error 0.000, out of fold on 9 "
        "images). Set FIT_SECONDS=180."
    )
    # No seconds go beyond the knee that our rule knows; the option does.
    assert advice({**metrics, **budget(knee=220)}).endswith("Set steps=900.")
    # And of labels that stopped paying nothing is said.
    gain = stopped_paying()["audit_gain"]
    assert "hardly pay" not in advice({**metrics, **budget(knee=220), "audit_gain": gain})


def test_harm_comes_before_all_other_advice():
    assert "made it worse" in advice({**falling(), **budget()})


def test_how_long_the_members_trained_is_told():
    assert training(budget()) == (
        "200 steps a member (40 s at 0.2 s a step; "
        "740 would pay for 20 labelled images: FIT_SECONDS=148)"
    )
    assert training({}) is None  # an earlier release's
