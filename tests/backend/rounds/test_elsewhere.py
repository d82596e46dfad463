"""What a project that started from another's version makes of it, round by round."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.actions.start_from import Start, adopt
from backend.errors import NotEnoughLabels
from backend.ledger.shapes import StartChoice, StartedFrom
from backend.predict import group_of, predict_tasks
from backend.rounds.elsewhere import choose_beginning, describe_start, start_of_member
from backend.rounds.stages.assemble import Made, assemble, better_made
from backend.rounds.stages.choose import choose
from backend.rounds.stages.collect import _measured_images
from backend.rounds.stages.fit import fit
from backend.rounds.stages.judge import judge
from backend.workplace import Workplace
from tests.backend.rounds.test_start import OneProject
from tests.backend.rounds.test_start import make as make  # the fixture
from tests.training.discs import CLASSES, disc_examples
from training.committee.checksums import UnknownVersion
from training.committee.version import StoredVersion, read_version
from training.config import TrainConfig
from training.examples import image_digest
from training.networks.build import skeleton

CONFIG = TrainConfig(CLASSES, members=2, network="unet", crop_px=32, batch=1, steps=1)
DIGEST = "d" * 64


def start_from_elsewhere(
    place: OneProject, images: list[str] | None = None, **changes: Any
) -> TrainConfig:
    """Give the project a version whose members nobody has trained."""
    config = replace(CONFIG, **changes)
    # OpenVINO would be compiled for each.
    place.work.settings = place.work.settings.model_copy(update={"engine": "torch"})
    weights = [skeleton(config).state_dict() for _ in range(config.members)]
    stored = StoredVersion(5, weights, config, {}, {"temperature": 1.0})
    source = StartedFrom(source="version 5 of project 3", digest=DIGEST, images=images or [])
    adopt(place.work, place.work.ledger.projects.get(place.id), Start(stored, source, ()))
    return config


def test_the_first_images_are_pre_annotated_at_once_and_the_others_next(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.rounds.stages.choose.SHARD_TASKS", 4)
    place = make()
    start_from_elsewhere(place, classes=("background", "Cell", "gone"))
    active = place.work.ledger.rounds.active(place.id)
    place.play(active)
    serving = place.serving()
    assert (serving.name, serving.length) == ("committee-v1.1-from-elsewhere", 4)
    # A task that is opened outside the queue is predicted too, and the name says by what.
    row = place.work.ledger.projects.get(place.id)
    [[answer]] = predict_tasks(place.work, row, serving, [(9, {"image": "/data/9.png"})])
    assert answer["model_version"] == serving.name
    rest = place.check()
    assert rest is not None
    assert rest.reason == "the version from elsewhere has ranked the first images only"
    place.play(rest)
    assert (place.serving().name, place.serving().length) == ("committee-v1.2-from-elsewhere", 9)
    assert place.check() is None


def test_groups_that_the_version_does_not_know_get_places(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make()
    place.options(audit_fraction=0, group_by="microscope")
    tasks = place.studio.tasks

    def grouped(*args: Any, **kwargs: Any) -> Any:
        for task in tasks(*args, **kwargs):
            scope = {"microscope": "new" if task.id > 7 else "old"}
            yield replace(task, data={**task.data, **scope})

    monkeypatch.setattr(place.studio, "tasks", grouped)
    start_from_elsewhere(place, classes=("background", "Cell"))
    active = place.work.ledger.rounds.active(place.id)
    # As if a round of this project had taught it one image of the old one.
    entry = {"task": 1, "digest": "x", "audit": False}
    monkeypatch.setattr(
        "backend.ledger.rounds.Rounds.get",
        lambda *_: SimpleNamespace(**{**vars(active), "manifest": [entry]}),
    )
    outcome = choose(place.work, active, {}, lambda _share: None)
    assert outcome.result["unknown_groups"] == {"new": [8, 9]}


def test_a_group_is_text_a_number_or_a_truth_value() -> None:
    data = {"scope": "Zeiss", "n": 3, "deep": {"er": "x"}, "none": None, "list": [1], "": ""}
    shown = [group_of(data, key) for key in ("scope", "n", "none", "list", "absent", "", None)]
    assert shown == ["Zeiss", "3", None, None, None, None, None]


def choice(*, begun: bool, images: int) -> StartChoice:
    return StartChoice(begun=begun, images=images, mean=0.1, low=0.0, high=0.2, pairs=images)


def test_both_beginnings_are_tried_at_first_and_when_the_images_have_doubled(make: Any) -> None:
    place = make()
    work = place.work
    row = work.ledger.projects.get(place.id)
    assert choose_beginning(work, row, CONFIG, 5).start == ""
    start_from_elsewhere(place)
    first = choose_beginning(work, row, CONFIG, 5)
    assert (first.start, first.both) == (DIGEST, True)
    # A lone member is new to no image; another network cannot begin with these.
    for config in (replace(CONFIG, members=1), replace(CONFIG, network="shared")):
        assert choose_beginning(work, row, config, 5) == type(first)()
    for number, begun in ((2, True), (3, False)):
        kept(work, place.id, number, choice(begun=begun, images=8))
        later = choose_beginning(work, row, CONFIG, 15)
        assert (later.start, later.both) == (DIGEST if begun else "", False)
    assert choose_beginning(work, row, CONFIG, 16).both
    work.registry.delete_version(row.slug, 1)
    gone = choose_beginning(work, row, CONFIG, 16)
    assert gone.start == ""
    assert gone.problems[0].startswith("No member begins with version 1: there is no version in")
    with pytest.raises(UnknownVersion):
        start_of_member(work, place.id, replace(CONFIG, start=DIGEST), 0)
    with pytest.raises(UnknownVersion, match="is not there any more"):
        start_of_member(work, place.id, replace(CONFIG, start="e" * 64), 0)


def kept(work: Workplace, project_id: int, number: int, chosen: StartChoice) -> None:
    round_ = work.ledger.rounds.adopt(project_id, "for the test")
    work.ledger.versions.record(
        project_id, number, round_.id, state="kept", reason="", members=2, classes=[],
        metrics={"start_choice": chosen},
    )  # fmt: skip


def made(scores: dict[str, float], problems: tuple[str, ...] = ()) -> Made:
    assessment = SimpleNamespace(scores=scores, problems=problems, config=CONFIG)
    return Made([], cast(Any, assessment))


def test_the_better_of_two_beginnings_is_kept_and_an_unfit_one_never() -> None:
    good, bad = made({"1": 0.8, "2": 0.7}), made({"1": 0.6, "2": 0.7})
    assert better_made(good, bad)[0] is good
    kept, told = better_made(bad, good)
    assert kept is good
    assert (told["begun"], told["images"]) == (False, 2)
    assert told["mean"] == pytest.approx(-0.1)
    assert better_made(made({"1": 0.9}, ("unfit",)), made({"1": 0.1}))[1]["begun"] is False
    said = describe_start({"start_choice": told, "learnt_elsewhere": ["1"]})
    assert said is not None
    assert "1 labelled image is among those that the version from elsewhere learnt from" in said
    assert "its members begin from the pretrained one" in said


def test_a_round_leaves_out_what_was_learnt_elsewhere_and_notes_what_it_learns(make: Any) -> None:
    place = make()
    work, ledger = place.work, place.work.ledger
    row = ledger.projects.get(place.id)
    examples = disc_examples(6)
    digests = [image_digest(each.image) for each in examples]
    start_from_elsewhere(place, [digests[0], digests[5], "other"])
    ledger.rounds.cancel(ledger.rounds.active(place.id).id, "for the test")
    for number, example in enumerate(examples):
        work.registry.put_example(row.slug, f"e{number}", replace(example, key=str(number)))
    assert _measured_images(work, row, ["e0", "e1", "e5"]) == 1
    with pytest.raises(NotEnoughLabels, match="All 2 labelled images are among those"):
        _measured_images(work, row, ["e0", "e5"])
    round_ = ledger.rounds.start(place.id, "train", "for the test", "collect", {})
    # The last one is an audit.
    round_.manifest = [
        {"task": n, "stamp": "s", "annotations": [], "audit": n == 5, "url": "", "digest": f"e{n}",
         "group": "Zeiss" if n < 2 else "Leica"}
        for n in range(6)
    ]  # fmt: skip
    round_.config = replace(CONFIG, start=DIGEST).to_json()
    collect = ledger.parts.take(ledger.parts.waiting()[0].id, "test")
    collect.result = {"both_starts": True}
    ledger.parts.results = lambda _id, stage: [collect.result] if stage == "collect" else []  # type: ignore[method-assign]
    # None of these is a test of the version that judges.
    outcome = judge(work, round_, {"tasks": [(0, "e0", 1)]}, lambda _share: None)
    assert outcome.judged == []
    assert [dict(fit) for fit in outcome.next_payloads] == [
        {"member": 0}, {"member": 1}, {"member": 0, "plain": True}, {"member": 1, "plain": True},
    ]  # fmt: skip
    for payload in outcome.next_payloads:
        fit(work, round_, cast(Any, payload), lambda _share: None)
    assemble(work, round_, {}, lambda _share: None)
    version = next(v for v in ledger.versions.all(place.id) if v.number == round_.version)
    metrics = version.metrics
    assert metrics["learnt_elsewhere"] == ["0", "5"]
    assert set(metrics["scores"]) == {"1", "2", "3", "4"}
    assert metrics["examples"] == 5
    assert metrics["audit"] is None
    assert metrics["groups"]["Zeiss"]["labelled"] == 2
    assert metrics["groups"]["Zeiss"]["measured"] == 1
    assert metrics["start_choice"]["images"] == 4
    stored = read_version(work.registry.version_path(row.slug, version.number))
    assert stored.manifest["images"] == sorted(digests[:5])
    begun = metrics["start_choice"]["begun"]
    assert stored.config.start == (DIGEST if begun else "")
    assert stored.manifest["ancestors"] == ([digests[0], digests[5], "other"] if begun else [])
