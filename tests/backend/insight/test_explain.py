"""What ``explain`` says, in numbers and in words."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from acquisition.adaptive import ARMS
from acquisition.uncertainty import MEASURES
from backend.cli import cli
from backend.commands import shared
from backend.errors import BadRequest, UnknownProject
from backend.insight.explain import explain
from backend.insight.explain_text import WHYS, describe_explanation
from backend.label_studio.bulk import Task
from backend.ledger import Evidence, Outcome, Project, Publication
from backend.rounds.ranking import Candidate, arm_quantiles
from backend.workplace import Workplace
from tests.backend import rows

BEST = "mutual_information"


@pytest.fixture
def work(work: Workplace) -> Workplace:
    """With ten tasks in Label Studio, of which 10 is labelled and 11 skipped."""
    tasks = {task_id: Task(task_id, {}, 0, 0) for task_id in range(10, 20)}
    tasks[10], tasks[11] = Task(10, {}, 1, 0), Task(11, {}, 0, 1)
    work.studio = cast(  # type: ignore[misc]  # in place of the cached client
        Any, SimpleNamespace(tasks=lambda _id, ids: [tasks[i] for i in ids if i in tasks])
    )
    return work


@pytest.fixture
def project(work: Workplace) -> Project:
    return work.ledger.projects.ensure(
        work.server, 7, 1, title="Urine", label_config="<View/>", extra_params={}
    )


def end_round(work: Workplace, project: Project, **values: Any) -> int:
    """A training round that does no more than end; its number."""
    round_ = work.ledger.rounds.start(project.id, "train", "a test's", "collect", {})
    assert round_ is not None
    [part] = work.ledger.parts.waiting()
    taken = work.ledger.parts.take(part.id, "test")
    assert taken is not None
    work.ledger.parts.finish(taken, Outcome(**values), next_stage=None)
    return int(round_.id)


def evidence(task_id: int, round_id: int, best: float = 0.9, wrong: int = 400) -> Evidence:
    rewards = dict.fromkeys(MEASURES, 0.5) | {BEST: best}
    return rows.evidence(
        task_id,
        round_id,
        rewards=rewards if wrong >= 20 else {},
        scores=dict.fromkeys(ARMS, 0.1 * task_id),
        error=wrong / 10_000,
        wrong=wrong,
        judged=10_000,
    )


def serve(work: Workplace, project: Project, version: int = 1) -> Publication:
    """A queue of five of the ten tasks; task 17 was scored and found no room, 18 was broken."""
    round_ = work.ledger.rounds.start(project.id, "rank", "a test's", "choose", {})
    assert round_ is not None
    [part] = work.ledger.parts.waiting()
    taken = work.ledger.parts.take(part.id, "test")
    assert taken is not None
    payload = {"tasks": [[task_id, ""] for task_id in range(10, 19)]}
    work.ledger.parts.finish(taken, Outcome(next_payloads=[payload]), next_stage="score")
    [part] = work.ledger.parts.waiting()
    taken = work.ledger.parts.take(part.id, "test")
    assert taken is not None
    work.ledger.parts.finish(taken, Outcome(problems=["Task 18: no image"]), next_stage=None)
    weights = {f"{BEST}/image_mean": 0.75, f"{BEST}/object_max": 0.25}
    found = {t: Candidate(dict.fromkeys(ARMS, (t - 10) / 8)) for t in range(10, 19)}
    first = version == 0
    whys = ["diverse"] * 5 if first else ["uncertainty", "class", "chance", "audit", "uncertainty"]
    made = work.ledger.publications.prepare(
        project.id,
        version,
        round_.id,
        arm="",
        quantiles=[0.9, 0.1],
        places=[
            rows.place(
                16 - position,
                position,
                why,
                uncertainty=0.9 - position / 10,
                arms={} if first else dict(found[16 - position].arms),
            )
            for position, why in enumerate(whys)
        ],
        mode="hedge",
        weights={} if first else weights,
        arm_quantiles={} if first else arm_quantiles(found, weights),
    )
    work.ledger.publications.serve(made.id, 5)
    if not first:
        work.ledger.versions.record(
            project.id,
            version,
            round_.id,
            state="promoted",
            reason="",
            members=2,
            classes=("background", "cell"),
            metrics={},
        )
    return made


def judged(work: Workplace, project: Project) -> None:
    first = end_round(work, project)
    end_round(work, project, judged=[evidence(21, first, 0.2), evidence(22, first, 0.2)])
    last = end_round(work, project)
    rows = [evidence(10, last, 0.88, 834), evidence(23, last, 0.88), evidence(24, last, wrong=3)]
    end_round(work, project, judged=rows)


def test_before_anything_it_says_so(work: Workplace, project: Project) -> None:
    found = explain(work, 7)
    assert (found.leader, found.evidence, found.publication) == (None, [], None)
    shown = describe_explanation(found)
    assert "No version yet, and no queue" in shown
    assert "all 30 arms" in shown
    assert "weigh the same" in shown
    assert sum(each.weight for each in found.measures) == pytest.approx(1)


def test_before_the_first_version_the_queue_is_of_different_images(
    work: Workplace, project: Project
) -> None:
    serve(work, project, version=0)
    shown = describe_explanation(explain(work, 7, 16))
    assert "No version yet; each image of the queue is the one least like those before it." in shown
    assert f"Task 16 stands at place 1 of 5 in committee-v0.1. {WHYS['diverse']}" in shown


def test_the_leader_is_explained_with_its_evidence(work: Workplace, project: Project) -> None:
    judged(work, project)
    serve(work, project)
    found = explain(work, 7)
    leader = found.leader
    assert leader.arm.startswith(f"{BEST}/")
    assert leader.round == 3
    assert leader.auroc == pytest.approx(0.94)
    assert (leader.images, leader.wrong_px, leader.corrections) == (2, 1234, 5)
    assert leader.reward == pytest.approx(0.88 + leader.correlation)
    best = leader.next_best
    assert best.arm.startswith("predictive_entropy/")
    assert best.reward == pytest.approx(0.5 + leader.correlation)
    shown = describe_explanation(found)
    assert (
        f"{leader.arm} leads round 3: a wrong pixel was more uncertain than a right one in 94% "
        "of pairs, judged on 2 corrected images with 1,234 wrong pixels, and its rank agreed with "
        "the annotators' effort at " in shown
    )
    assert "over the last 5 corrections. That is a reward of +" in shown
    assert f"the best of another measure, {best.arm}, has +" in shown
    assert "Over all rounds it is the heaviest too, with weight ." in shown
    assert "Round 1: 2 corrected images judged by version 1, 800 wrong pixels; 2 had" in shown
    assert "Round 3: 3 corrected images judged by version 1, 1,237 wrong pixels; 2 had" in shown
    assert "committee-v1.1 serves: 5 images ranked." in shown
    heaviest = found.measures[0]
    assert heaviest.measure == BEST
    assert sum(each.weight for each in found.measures) == pytest.approx(1)


def test_who_leads_the_last_round_need_not_be_the_heaviest(
    work: Workplace, project: Project
) -> None:
    other = "standard_deviation"
    for best, rewards in ((BEST, 0.95), (BEST, 0.95), (other, 0.6)):
        number = end_round(work, project)
        row = evidence(number + 20, number)
        row.rewards = dict.fromkeys(MEASURES, 0.2) | {best: rewards}
        end_round(work, project, judged=[row])
    found = explain(work, 7)
    leader, heaviest = found.leader, found.leader.heaviest
    assert leader.arm.startswith(f"{other}/")
    assert heaviest.arm.startswith(f"{BEST}/")
    assert heaviest.weight > leader.weight == leader.queue_weight
    shown = describe_explanation(found)
    assert f", and {heaviest.arm} is the heaviest with ." in shown
    work.ledger.projects.update(project.id, extra_params={"mode": "leader"})
    found = explain(work, 7)
    assert found.leader.queue_weight == 1
    assert "In this mode it ranks alone, with weight 1." in describe_explanation(found)


def test_only_corrections_that_count_are_counted(work: Workplace, project: Project) -> None:
    first = end_round(work, project)
    unknown, audit = evidence(30, first), evidence(31, first, best=-0.5)
    unknown.judged, unknown.rewards, audit.audit = 0, {}, True
    end_round(work, project, judged=[unknown, audit, *(evidence(t, first) for t in range(40, 90))])
    last = end_round(work, project)
    end_round(work, project, judged=[evidence(90, last)])
    found = explain(work, 7, None)
    leader = found.leader
    assert leader.arm.startswith(f"{BEST}/")
    assert leader.corrections == 51  # the oldest batch of the last 50 counts as a whole
    assert [each.audits for each in found.evidence] == [1, 0]
    assert "51 had enough" not in describe_explanation(found)
    assert (
        "50 had enough of them to tell (audits, which steer nothing, apart: 1)."
        in describe_explanation(found)
    )


def test_a_judged_audit_is_shown_and_steers_nothing(work: Workplace, project: Project) -> None:
    first = end_round(work, project)
    audit = evidence(10, first)
    audit.audit = True
    end_round(work, project, judged=[audit])
    serve(work, project)
    found = explain(work, 7, 10)
    assert found.leader is None
    assert (
        "pixels were corrected (4.0%); it is an audit, so this steers nothing."
        in describe_explanation(found)
    )


@pytest.mark.parametrize(
    ("mode", "members", "warned"),
    [
        ("fixed:mutual_information", 1, True),
        ("fixed:predictive_entropy", 1, False),
        ("fixed:mutual_information", 2, False),
        ("hedge", 1, False),
    ],
)
def test_a_committee_of_one_is_warned_that_it_disagrees_with_nobody(
    work: Workplace, project: Project, mode: str, members: int, warned: bool
) -> None:
    work.ledger.projects.update(project.id, extra_params={"mode": mode, "members": members})
    shown = describe_explanation(explain(work, 7))
    assert ("a committee of one disagrees with nobody" in shown) == warned


@pytest.mark.parametrize(
    ("task_id", "place", "why"),
    [(16, 1, "uncertainty"), (15, 2, "class"), (14, 3, "chance"), (13, 4, "audit")],
)
def test_a_task_in_the_queue_has_a_reason(
    work: Workplace, project: Project, task_id: int, place: int, why: str
) -> None:
    serve(work, project)
    shown = describe_explanation(explain(work, 7, task_id))
    assert f"Task {task_id} stands at place {place} of 5 in committee-v1.1. {WHYS[why]}" in shown
    percent = round(100 * (task_id - 10) / 8)
    assert (
        f"{BEST}/image_mean (weight .75): higher than in {percent}% of the scored images" in shown
    )


@pytest.mark.parametrize(
    ("task_id", "because"),
    [
        (10, "it has been labelled"),
        (11, "it has been skipped"),
        (17, "it was scored, and 5 others filled the queue"),
        (18, r"its image could not be used \(Task 18: no image\)"),
        (19, "it was no candidate"),
    ],
)
def test_a_task_that_is_not_in_the_queue_has_a_reason(
    work: Workplace, project: Project, task_id: int, because: str
) -> None:
    serve(work, project)
    shown = describe_explanation(explain(work, 7, task_id))
    assert re.search(f"Task {task_id} is not in the queue: {because}", shown)


def test_a_judged_task_shows_its_evidence(work: Workplace, project: Project) -> None:
    judged(work, project)
    serve(work, project)
    shown = describe_explanation(explain(work, 7, 10))
    assert (
        "Judged in round 3 by version 1: 834 of 10,000 pixels were corrected (8.3%); "
        f"{BEST} predicted them best: a wrong pixel was more uncertain than a right one in 94% of "
        "pairs."
    ) in shown


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("random", "Mode random: chance ranks the images."),
        ("leader", "Mode leader: the measure that best predicted"),
        ("fixed:variation_ratio", "Mode fixed: variation_ratio/top_quantile_mean ranks the"),
    ],
)
def test_a_mode_that_was_changed_is_shown_of_the_queue_too(
    work: Workplace, project: Project, mode: str, says: str
) -> None:
    judged(work, project)
    serve(work, project)
    work.ledger.projects.update(project.id, extra_params={"mode": mode})
    shown = describe_explanation(explain(work, 7))
    assert says in shown
    assert "It was made in mode hedge; the next will be in the present one." in shown
    assert ("The mode does not use it, but by the evidence " in shown) == (mode != "leader")


def test_unknown_projects_and_tasks_are_sentences(work: Workplace, project: Project) -> None:
    with pytest.raises(UnknownProject, match="connect --project 8"):
        explain(work, 8)
    with pytest.raises(BadRequest, match="Project 7 has no task 99"):
        explain(work, 7, 99)


def test_the_command_prints_words_or_json_and_fails_with_a_sentence(
    work: Workplace, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(work, project)
    serve(work, project)
    monkeypatch.setattr(shared, "load_settings", lambda: work.settings)
    monkeypatch.setattr(shared, "Workplace", lambda _settings: work)
    run = CliRunner().invoke
    words = run(cli, ["explain", "--project", "7", "--task", "16"])
    assert words.exit_code == 0
    assert "Task 16 stands at place 1 of 5" in words.output
    as_json = run(cli, ["explain", "--project", "7", "--json"])
    assert json.loads(as_json.output)["leader"]["round"] == 3
    for args in (["--project", "7", "--task", "99"], ["--project", "8"]):
        failed = run(cli, ["explain", *args])
        assert failed.exit_code == 1
        assert failed.output.count("\n") == 1


def test_the_json_keys_are_those_that_scripts_read(work: Workplace, project: Project) -> None:
    judged(work, project)
    serve(work, project)
    found = explain(work, 7, 10).to_json()
    assert set(found) == {
        *("project", "title", "mode", "members", "version", "publication", "advice"),
        *("first_queue", "arms", "leader", "measures", "evidence", "queues", "task"),
    }
    (queue,) = found["queues"]
    assert set(queue) == {"name", "made", "mode", "weights"}
    assert set(found["publication"]) == {"name", "version", "length", "mode", "weights"}
    assert set(found["leader"]) == {
        *("arm", "weight", "queue_weight", "heaviest", "round", "reward", "auroc", "next_best"),
        *("images", "wrong_px", "correlation", "corrections"),
    }
    assert set(found["leader"]["heaviest"]) == {"arm", "weight"}
    assert set(found["leader"]["next_best"]) == {"arm", "reward"}
    assert set(found["measures"][0]) == {"measure", "auroc", "weight"}
    evidence_keys = {"round", "images", "audits", "versions", "wrong_px", "telling"}
    assert set(found["evidence"][0]) == evidence_keys
    assert set(found["task"]) == {"task", "state", "place", "absent", "judged"}
    assert set(found["task"]["judged"]) == {
        *("round", "version", "error", "wrong_px", "judged_px", "chosen_for", "audit", "aurocs"),
    }
    place = explain(work, 7, 16).to_json()["task"]["place"]
    assert set(place) == {"position", "length", "why", "doubt", "arms"}
    assert set(place["arms"][0]) == {"arm", "weight", "percentile"}
    assert "task" not in explain(work, 7).to_json()
