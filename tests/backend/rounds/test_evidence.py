"""Which labels judge the measures, by whom, and that all of it can be told again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.adaptive import ARMS
from acquisition.uncertainty import MEASURES
from backend.ledger import Evidence, Outcome, Round
from backend.rounds.evidence import due_evidence, trust_of, truth_for
from backend.rounds.stages import collect, judge
from backend.workplace import Workplace
from tests.backend.rows import evidence
from tests.backend.workplaces import open_workplace
from tests.training.discs import CLASSES, disc_examples
from training.committee import registry
from training.config import TrainConfig
from training.examples import Example
from training.networks.build import build_network

TINY = TrainConfig(CLASSES, members=2, network="unet", crop_px=64, batch=4, steps=30)


def entry(task_id: int, stamp: str = "old", **values: Any) -> dict[str, Any]:
    found = {"task": task_id, "stamp": stamp, "digest": f"e{task_id}", "audit": False}
    return {**found, "annotations": [[task_id, "2026-11-24T09:00:00.5Z"]], **values}


def row(task_id: int, stamp: str = "old", version: int = 3) -> Evidence:
    return evidence(task_id, stamp=stamp, version=version)


class TestWhatIsDue:
    def test_a_label_that_the_serving_version_never_saw_is_judged_by_it(self) -> None:
        due = due_evidence([entry(1), entry(2)], [], 5, [entry(1)], [5])
        assert (due.judge, due.withdrawn) == ([(2, "e2", 5)], [])

    def test_before_the_first_version_nobody_judges(self) -> None:
        assert due_evidence([entry(1)], [], None, [], []).judge == []

    def test_once_judged_is_judged(self) -> None:
        due = due_evidence([entry(1)], [row(1)], 5, [], [3, 5])
        assert (due.judge, due.withdrawn) == ([], [])

    def test_an_edited_label_is_judged_again_by_who_judged_it(self) -> None:
        due = due_evidence([entry(1, "new")], [row(1)], 5, [entry(1)], [3, 5])
        assert due.judge == [(1, "e1", 3)]

    def test_or_withdrawn_where_that_version_is_gone(self) -> None:
        due = due_evidence([entry(1, "new")], [row(1)], 5, [], [5])
        assert (due.judge, due.withdrawn) == ([], [1])

    def test_a_deleted_label_takes_its_evidence_along(self) -> None:
        gone_meanwhile = entry(2, stamp=None, digest=None)  # type: ignore[arg-type]
        due = due_evidence([gone_meanwhile], [row(1), row(2)], 5, [], [3, 5])
        assert due.withdrawn == [1, 2]

    def test_an_image_that_cannot_be_read_this_time_keeps_what_was_judged(self) -> None:
        unreadable = [entry(1, digest=None), entry(2, "new", digest=None)]
        due = due_evidence(unreadable, [row(1), row(2)], 5, [], [3, 5])
        assert (due.judge, due.withdrawn) == ([], [])

    def test_an_image_that_was_trained_on_is_no_test_though_its_label_was_edited(self) -> None:
        assert due_evidence([entry(1, "new")], [], 5, [entry(1)], [5]).judge == []

    def test_an_audit_was_never_trained_on_and_is_one(self) -> None:
        due = due_evidence([entry(1, "new", audit=True)], [], 5, [entry(1, audit=True)], [5])
        assert due.judge == [(1, "e1", 5)]

    def test_the_labels_of_one_version_stand_together(self) -> None:
        manifest = [entry(1), entry(2, "new"), entry(3), entry(4, "new")]
        due = due_evidence(manifest, [row(2), row(4)], 5, [], [3, 5])
        assert [each[2] for each in due.judge] == [3, 3, 5, 5]


class TestTruth:
    def test_classes_go_by_name_and_what_is_not_known_is_never_right(self) -> None:
        mask = np.array([[0, 1, 2, 255]], np.uint8)
        truth = truth_for(mask, (1, 4), ("background", "a", "b"), ("background", "b"))
        assert truth.tolist() == [[0, 2, 1, 255]]

    def test_a_mask_of_another_size_is_fitted(self) -> None:
        mask = np.repeat(np.array([[0, 0, 1, 1]], np.uint8), 4, axis=0)
        truth = truth_for(mask, (2, 2), ("background", "a"), ("background", "a"))
        assert truth.tolist() == [[0, 1], [0, 1]]


# The stage itself, with a real version, ledger and registry


class OneProject:
    """A project with version 1, made in round 1, and a training round under way."""

    def __init__(self, work: Workplace) -> None:
        self.work = work
        ledger = work.ledger
        project = ledger.projects.ensure("http://studio", 7, 1, title="Discs")
        self.id, self.slug = project.id, project.slug
        made = ledger.rounds.start(self.id, "train", "first", "collect", {})
        assert made is not None
        self._finish({"manifest": [entry(1)]})
        self.version(1, made.id)

    def version(self, number: int, round_id: int, config: TrainConfig = TINY) -> None:
        torch.manual_seed(number)
        weights = [build_network(config).state_dict() for _ in range(config.members)]
        metrics = {"temperature": 1.0}
        self.work.registry.save_version(self.slug, number, weights, config, {}, metrics)
        self.work.ledger.versions.record(
            self.id,
            number,
            round_id,
            state="promoted",
            reason="",
            members=config.members,
            classes=config.classes,
            metrics=metrics,
        )

    def _finish(self, values: dict[str, Any]) -> None:
        [part] = self.work.ledger.parts.waiting()
        taken = self.work.ledger.parts.take(part.id, "test")
        assert taken is not None
        self.work.ledger.parts.finish(taken, Outcome(**values), next_stage=None)

    def play(
        self,
        examples: dict[int, tuple[str, Example]],
        config: TrainConfig = TINY,
        audits: Collection[int] = (),
    ) -> Round:
        """A round's collect, as far as evidence goes, and its judge; the round ends there.

        Args:
            examples: task id to its label's stamp and example.
        """
        manifest = []
        for task_id, (stamp, example) in sorted(examples.items()):
            digest = f"{stamp}-{task_id}"
            self.work.registry.put_example(self.slug, digest, example)
            manifest.append(entry(task_id, stamp, digest=digest, audit=task_id in audits))
        ledger = self.work.ledger
        round_ = ledger.rounds.start(self.id, "train", "labels", "collect", {})
        assert round_ is not None
        due = collect._due_evidence(self.work, ledger.projects.get(self.id), manifest)
        [part] = ledger.parts.waiting()
        taken = ledger.parts.take(part.id, "test")
        assert taken is not None
        ledger.parts.finish(
            taken,
            Outcome(
                next_payloads=[{"tasks": [list(each) for each in due.judge]}],
                manifest=manifest,
                config=config.to_json(),
                withdrawn=due.withdrawn,
            ),
            next_stage="judge",
        )
        [part] = ledger.parts.waiting()
        taken = ledger.parts.take(part.id, "test")
        assert taken is not None
        round_ = ledger.rounds.get(round_.id)
        outcome = judge.judge(self.work, round_, taken.payload, lambda _share: None)
        assert [payload["member"] for payload in outcome.next_payloads] == [0, 1]
        ledger.parts.finish(taken, outcome, next_stage=None)
        return ledger.rounds.get(round_.id)

    def evidence(self) -> dict[int, Evidence]:
        return {each.task_id: each for each in self.work.ledger.evidence.all(self.id)}


@pytest.fixture
def round_(tmp_path: Path) -> Iterator[OneProject]:
    with open_workplace(tmp_path, engine="torch") as work:
        yield OneProject(work)


def labels(*task_ids: int, stamp: str = "old") -> dict[int, tuple[str, Example]]:
    found = disc_examples(max(task_ids) + 1)
    return {task_id: (stamp, found[task_id]) for task_id in task_ids}


def test_a_label_was_made_when_its_first_annotation_was() -> None:
    two = [[1, "2026-11-24T09:00:10Z"], [2, "2026-11-24T09:00:00.500000Z"]]
    manifest = [entry(1, annotations=two), entry(2, annotations=[])]
    assert judge.labelled_at(manifest) == {1: 1795510800.5}


def test_an_audit_is_judged_and_has_no_say(round_: OneProject) -> None:
    round_.play(labels(1, 2, 3))
    without = trust_of(round_.work.ledger, round_.id)
    round_.play(labels(1, 2, 3, 4), audits={4})
    assert round_.evidence()[4].audit
    assert trust_of(round_.work.ledger, round_.id) == without


def test_new_labels_are_judged_and_those_it_learnt_from_are_not(round_: OneProject) -> None:
    ended = round_.play(labels(1, 2, 3))
    found = round_.evidence()
    assert found.keys() == {2, 3}
    assert ended.problems == []
    for each in found.values():
        assert (each.version, each.round_id, each.stamp) == (1, ended.id, "old")
        assert each.scores.keys() == set(ARMS)
        assert each.rewards.keys() == set(MEASURES)
        assert 0 < each.wrong <= each.judged
        assert each.error == each.wrong / each.judged
        assert each.chosen_for == ""  # no queue asked for it


def test_an_edited_label_keeps_its_round_and_its_judge(round_: OneProject) -> None:
    first = round_.play(labels(1, 2, 3))
    round_.version(2, first.id)
    before = round_.evidence()
    edited = labels(1, 2, 3)
    image = edited[2][1].image
    edited[2] = ("new", Example("2", image, np.zeros(image.shape[:2], np.uint8)))
    round_.play(edited)
    after = round_.evidence()
    assert after[3] == before[3]
    assert (after[2].version, after[2].round_id) == (1, first.id)
    assert after[2].stamp == "new"
    assert after[2].wrong != before[2].wrong
    assert after[2].scores == before[2].scores  # the same eyes saw the same image


def test_a_withdrawn_label_leaves_the_trust_as_if_it_had_never_been(round_: OneProject) -> None:
    round_.play(labels(1, 2, 3))
    without = trust_of(round_.work.ledger, round_.id)
    assert without == trust_of(round_.work.ledger, round_.id)
    round_.play(labels(1, 2, 3, 4))
    assert trust_of(round_.work.ledger, round_.id) != without
    round_.play(labels(1, 2, 3))  # the label of 4 was deleted
    assert round_.evidence().keys() == {2, 3}
    assert trust_of(round_.work.ledger, round_.id) == without


def test_an_edit_that_is_taken_back_leaves_the_trust_as_it_was(round_: OneProject) -> None:
    round_.play(labels(1, 2, 3))
    before = trust_of(round_.work.ledger, round_.id)
    edited = labels(1, 2, 3)
    image = edited[2][1].image
    edited[2] = ("new", Example("2", image, np.zeros(image.shape[:2], np.uint8)))
    round_.play(edited)
    assert trust_of(round_.work.ledger, round_.id) != before
    round_.play({**labels(1, 3), **labels(2, stamp="back")})
    assert trust_of(round_.work.ledger, round_.id) == before


def test_a_version_that_cannot_be_read_judges_nothing_and_the_round_goes_on(
    round_: OneProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = round_.play(labels(1, 2))
    round_.version(2, first.id)
    monkeypatch.setattr(registry, "_loaded", OrderedDict())  # another worker's process
    for number in (1, 2):
        folder = round_.work.registry.version_path(round_.slug, number)
        (folder / "member-00.safetensors").write_bytes(b"damaged")
    ended = round_.play({**labels(1, 3), **labels(2, stamp="new")})
    assert len(ended.problems) == 2
    assert all("cannot judge new labels" in problem for problem in ended.problems)
    # What it said of the label before the edit does not hold any more.
    assert round_.evidence() == {}


def test_a_class_that_was_added_is_an_error_and_one_that_is_gone_stops_the_judging(
    round_: OneProject,
) -> None:
    more = TrainConfig((*CLASSES, "new"), members=2, network="unet")
    found = labels(2)
    example = found[2][1]
    mask = np.full(example.mask.shape, len(CLASSES), np.uint8)
    round_.play({2: ("old", Example("2", example.image, mask))}, more)
    [judged] = round_.evidence().values()
    assert judged.wrong == judged.judged > 0
    assert judged.rewards == {}  # nothing right to compare with
    fewer = TrainConfig(CLASSES[:-1], members=2, network="unet")
    ended = round_.play(labels(2, 3), fewer)
    assert ended.problems == [
        f"Version 1 cannot judge new labels: it sees {CLASSES[-1]}, which the label config "
        "does not have any more"
    ]
    assert round_.evidence().keys() == {2}


def test_what_shows_no_judged_pixel_says_nothing(round_: OneProject) -> None:
    example = labels(2)[2][1]
    mask = np.full(example.mask.shape, 255, np.uint8)
    round_.play({2: ("old", Example("2", example.image, mask))})
    assert round_.evidence()[2].judged == 0
    assert trust_of(round_.work.ledger, round_.id).images == 0
