"""Start rounds and publishing, stage by stage, on a Label Studio that is kept in memory."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest
from PIL import Image

from acquisition.adaptive import ARMS
from acquisition.uncertainty import MEASURES
from backend.errors import StudioUnreachable
from backend.insight.status import status
from backend.insight.status_text import describe_status
from backend.jobs import jobs
from backend.jobs.cleaning import LOCK_TTL_S, clean_project
from backend.jobs.clock import Clock
from backend.label_studio.bulk import Project, Stamp, Task
from backend.label_studio.client import Json
from backend.ledger import Outcome, Place, Publication, Round
from backend.predict import predict_tasks
from backend.rounds import schedule as rounds
from backend.rounds.schedule import STAGES, check_project, next_stage
from backend.rounds.stages import RUN
from backend.rounds.stages.choose import choose
from backend.rounds.stages.shards import Scored, halved, write_shard
from backend.settings import Settings
from backend.workplace import Workplace
from tests.backend.rows import evidence
from tests.backend.workplaces import brush_config, make_ledger
from training.networks.encoder import DamagedWeights

SERVER = "http://studio.invalid"
BRUSH = brush_config("Cell", "Cast")


def png(shade: int) -> bytes:
    """Stripes whose width and grey tell the images apart."""
    wide = 4 + shade % 5
    stripes = (np.arange(64) // wide % 2 * 90 + shade).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.repeat(np.tile(stripes, (48, 1))[..., None], 3, axis=2)).save(file, "PNG")
    return file.getvalue()


class MemoryStudio:
    """One project: what the stages ask of Label Studio, and no more."""

    def __init__(self, count: int) -> None:
        self.task_ids = list(range(1, count + 1))
        self.stamped: dict[int, tuple[Stamp, ...]] = {}
        self.sent: dict[str, list[Json]] = {}
        self.settings: Json = {}

    def project(self, project_id: int) -> Project:
        version = self.settings.get("model_version", "")
        return Project(7, "Urine", 1, BRUSH, "", version, 1, len(self.task_ids), {})

    def tasks(self, _project_id: int, ids: Sequence[int] | None = None) -> Iterator[Task]:
        for task_id in self.task_ids if ids is None else ids:
            count = len(self.stamped.get(task_id, ()))
            yield Task(task_id, {"image": f"/data/{task_id}.png"}, count, 0)

    def touched(
        self, _project_id: int, _since: object = None
    ) -> Iterator[tuple[int, str, tuple[Stamp, ...]]]:
        for task_id, stamps in self.stamped.items():
            yield task_id, stamps[-1].updated_at, stamps

    def model_versions(self, _project_id: int) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.sent.items()}

    def import_predictions(self, _project_id: int, rows: Sequence[Json]) -> int:
        self.sent[rows[0]["model_version"]] = orjson.loads(orjson.dumps(list(rows)))
        return len(rows)

    def update_project(self, _project_id: int, **fields: object) -> None:
        self.settings.update(fields)

    def views(self, _project_id: int) -> list[Json]:
        return []

    def columns(self, _project_id: int) -> list[tuple[str, str]]:
        return []

    def create_view(self, _project_id: int, data: Json) -> Json:
        return {"id": 1, "data": data}

    def label(self, *task_ids: int) -> None:
        for task_id in task_ids:
            self.stamped[task_id] = (Stamp(task_id, "2026-11-24T00:00:00Z", False),)


class OneProject:
    """A workplace on a memory studio with one connected project."""

    def __init__(self, tmp_path: Path, count: int) -> None:
        settings = Settings(  # type: ignore[call-arg]
            data_dir=tmp_path,
            label_studio_url=SERVER,
            label_studio_api_key="f" * 40,
            retrain_every=4,
            _env_file=None,
        )
        make_ledger(settings.ledger_url)
        self.work = Workplace(settings)
        self.studio = MemoryStudio(count)
        self.broken: set[str] = set()
        self.work.studio = cast(Any, self.studio)  # type: ignore[misc]  # the cached client
        self.work.images = cast(Any, SimpleNamespace(fetch=self._fetch))  # type: ignore[misc]
        self.id = int(self.work.ledger.projects.ensure(self.work.server, 7, 1).id)
        self.options(audit_fraction=0)

    def _fetch(self, url: str) -> bytes:
        if url in self.broken:
            return b"no image"
        return png(10 * int(url.removeprefix("/data/").removesuffix(".png")))

    def options(self, **values: Any) -> None:
        self.work.ledger.projects.update(
            self.id, extra_params=values, label_config=BRUSH, connected=True
        )

    def check(self) -> Round | None:
        return check_project(self.work, self.id)

    def serving(self) -> Publication:
        found = self.work.ledger.publications.serving(self.id)
        assert found is not None
        return found

    def ranking(self) -> list[Place]:
        return self.work.ledger.publications.ranking(self.serving().id)

    def play(self, round_: Round) -> Round:
        """Do every part of a round, as a worker would."""
        ledger = self.work.ledger
        while True:
            waiting = [p for p in ledger.parts.waiting() if p.round_id == round_.id]
            if not waiting:
                return ledger.rounds.get(round_.id)
            part = ledger.parts.take(waiting[0].id, "test")
            assert part is not None
            now = ledger.rounds.get(round_.id)
            outcome = RUN[part.stage](self.work, now, part.payload, lambda _share: None)
            following = next_stage(now.kind, part.stage)
            ledger.parts.finish(part, outcome, next_stage=following)

    def start(self) -> Round:
        round_ = self.check()
        assert round_ is not None
        assert round_.kind == "start"
        return self.play(round_)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[OneProject] = []
    folders = itertools.count()

    def one(count: int = 9) -> OneProject:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        made.append(OneProject(folder, count))
        return made[-1]

    yield one
    for place in made:
        place.work.close()


class TestAStartRound:
    def test_it_orders_all_images_and_claims_nothing_of_them(self, make: Any) -> None:
        place = make()
        ended = place.start()
        assert (ended.state, ended.problems, ended.version) == ("succeeded", [], None)
        assert set(ended.timings) == set(STAGES["start"])
        serving = place.serving()
        assert (serving.name, serving.version, serving.length) == ("committee-v0.1", 0, 9)
        assert (serving.mode, serving.weights, serving.arm) == ("hedge", {}, "")
        ranking = [row.task_id for row in place.ranking()]
        assert sorted(ranking) == place.studio.task_ids
        assert {row.why for row in place.ranking()} == {"diverse"}
        sent = place.studio.sent["committee-v0.1"]
        assert [row["result"] for row in sent] == [[]] * 9
        assert [row["task"] for row in sorted(sent, key=lambda row: row["score"])] == ranking
        assert place.studio.settings == {
            "model_version": "committee-v0.1",
            "sampling": "Uncertainty sampling",
        }
        assert place.check() is None  # and then all is well

    def test_a_seed_and_the_images_settle_the_order(self, make: Any) -> None:
        orders = []
        for _ in range(2):
            place = make()
            place.start()
            orders.append([row.task_id for row in place.ranking()])
        assert orders[0] == orders[1]

    def test_in_mode_random_chance_orders_them_without_a_look(self, make: Any) -> None:
        place = make()
        place.options(mode="random", audit_fraction=0)
        place.work.images = cast(Any, None)  # nothing is fetched
        place.start()
        assert place.serving().mode == "random"
        assert {row.why for row in place.ranking()} == {"chance"}
        assert sorted(row.task_id for row in place.ranking()) == place.studio.task_ids

    def test_an_image_that_cannot_be_read_is_told_and_left_out(self, make: Any) -> None:
        place = make()
        place.broken = {"/data/3.png"}
        ended = place.start()
        assert len(ended.problems) == 1
        assert ended.problems[0].startswith("Task 3: ")
        assert 3 not in {row.task_id for row in place.ranking()}
        assert place.check() is None

    def test_where_none_can_be_read_it_is_not_tried_again_until_more_come(self, make: Any) -> None:
        place = make(2)
        place.broken = {"/data/1.png", "/data/2.png"}
        ended = place.start()
        assert ended.state == "succeeded"
        assert place.work.ledger.publications.serving(place.id) is None
        assert place.check() is None
        place.studio.task_ids += [3, 4]
        place.start()
        assert sorted(row.task_id for row in place.ranking()) == [3, 4]

    def test_or_until_a_while_has_passed(self, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        place = make(2)
        place.broken = {"/data/1.png", "/data/2.png"}
        place.start()
        place.broken = set()
        assert place.check() is None
        monkeypatch.setattr(rounds, "START_AGAIN_S", 0.0)
        place.start()
        assert sorted(row.task_id for row in place.ranking()) == [1, 2]

    def test_features_that_are_not_finite_are_told_and_chance_orders_the_images(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def odd(images: Any, *_: Any) -> Iterator[Any]:
            for number, _image in enumerate(images):
                yield np.array([number, np.nan if number == 3 else 1.0], np.float32)

        monkeypatch.setattr("training.networks.pretrained_features.pretrained_features", odd)
        place = make()
        ended = place.start()
        assert ended.state == "succeeded"
        assert [said[:43] for said in ended.problems] == [
            "The features of task 4 are not finite numbe"
        ]
        assert len(place.ranking()) == 9
        assert place.serving().mode == "random"

    def test_predict_answers_nothing_and_loads_nothing(self, make: Any) -> None:
        place = make()
        place.start()
        row = place.work.ledger.projects.get(place.id)
        place.work.images = cast(Any, None)
        tasks = [(1, {"image": "/data/1.png"}), (2, {})]
        assert predict_tasks(place.work, row, place.serving(), tasks) == [[], []]

    def test_what_predict_left_is_stored_without_what_no_request_can_carry(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = make()
        place.start()
        row, serving = place.work.ledger.projects.get(place.id), place.serving()

        def predicted(*_: Any) -> list[list[Json]]:
            rest = {"score": 0.5, "model_version": serving.name}
            return [[{"result": [{"id": "1" * size}], **rest}] for size in (1, 60)]

        monkeypatch.setattr("backend.predict.predict_tasks", predicted)
        monkeypatch.setattr(jobs, "LARGEST_RESULT", 50)
        monkeypatch.setattr(place.studio, "predictions", lambda _task: [], raising=False)
        jobs._store_rest(place.work, row, [1, 2])
        assert [sent["task"] for sent in place.studio.sent[serving.name]] == [1]

    def test_status_says_how_the_images_are_ordered(self, make: Any) -> None:
        place = make()
        assert "version      none yet" in describe_status(status(place.work.ledger))
        place.start()
        said = describe_status(status(place.work.ledger))
        assert (
            "no version yet; each image of the queue is the one least like those before it" in said
        )


class TestWhenItStarts:
    def test_a_single_image_is_in_order(self, make: Any) -> None:
        assert make(1).check() is None
        place = make(3)
        place.studio.label(1, 2)
        assert place.check() is None

    def test_new_tasks_are_put_in_order_too(self, make: Any) -> None:
        place = make()
        place.start()
        place.studio.task_ids += [10, 11]
        round_ = place.check()
        assert round_ is not None
        assert (round_.kind, round_.reason) == ("start", "no version yet; 2 more tasks")
        place.play(round_)
        assert place.serving().name == "committee-v0.2"
        assert len(place.ranking()) == 11

    def test_a_used_up_queue_is_made_anew(self, make: Any) -> None:
        place = make()
        place.options(audit_fraction=0, queue_length=3, retrain_every=4)
        place.start()
        place.studio.label(*[row.task_id for row in place.ranking()])
        round_ = place.check()
        assert round_ is not None
        assert round_.reason == "no version yet; only 0 ordered tasks left"

    def test_a_label_of_a_short_queue_starts_no_round(self, make: Any) -> None:
        place = make()
        place.options(audit_fraction=0, queue_length=4, retrain_every=4)
        place.start()
        queue = [row.task_id for row in place.ranking()]
        place.studio.label(*queue[:2])
        assert place.check() is None
        place.studio.label(queue[2])
        round_ = place.check()
        assert round_ is not None
        assert round_.reason == "no version yet; only 1 ordered tasks left"

    def test_a_label_of_a_version_s_short_queue_starts_no_round_either(self, make: Any) -> None:
        place = make(60)
        place.options(audit_fraction=0, queue_length=4, retrain_every=40)
        promote(place)
        place.studio.sent["committee-v1.1"] = []
        publish(place, SHARDS)
        queue = [row.task_id for row in place.ranking()]
        place.studio.label(*queue[:2])
        assert place.check() is None
        place.studio.label(queue[2])
        round_ = place.check()
        assert round_ is not None
        assert round_.reason == "only 1 ranked tasks left"

    def test_labels_too_few_to_teach_start_no_training_and_take_no_start_round_s_place(
        self, make: Any
    ) -> None:
        place = make()
        place.options(audit_fraction=0, retrain_every=1)
        start = place.check()
        assert start is not None
        place.studio.label(1)
        for event in ("ANNOTATION_CREATED", "CONNECTED"):
            place.work.ledger.events.add(place.id, event)
            assert place.check() is None
            assert place.work.ledger.events.pending(place.id) == []
        assert place.work.ledger.rounds.get(start.id).state == "active"
        place.studio.label(2)
        round_ = place.check()
        assert round_ is not None
        assert round_.kind == "train"

    def test_audits_do_not_count_among_those(self, make: Any) -> None:
        place = make()
        slug = place.work.ledger.projects.get(place.id).slug
        audits = [task for task in place.studio.task_ids if rounds.is_audit(slug, task, 0.5)]
        assert len(audits) >= 2
        place.options(audit_fraction=0.5, retrain_every=1)
        place.studio.label(*audits)
        round_ = place.check()
        assert round_ is not None
        assert round_.kind == "start"

    def test_failing_training_leaves_nobody_without_a_queue(self, make: Any) -> None:
        place = make()
        place.studio.label(1, 2, 3, 4)
        training = place.check()
        assert training is not None
        place.work.ledger.rounds.fail(training.id, "all of one fold")
        place.studio.task_ids.append(10)
        place.work.ledger.events.add(place.id, "TASKS_CREATED")
        place.start()
        assert len(place.ranking()) == 6
        # Ranking with a version still waits, and what tells of it is not forgotten meanwhile.
        promote(place)
        place.work.ledger.projects.update(place.id, not_before=time.time() + 600)
        place.work.ledger.events.add(place.id, "TASKS_CREATED")
        place.studio.stamped.clear()
        assert place.check() is None
        pending = place.work.ledger.events.pending(place.id)
        assert "TASKS_CREATED" in {event.action for event in pending}
        place.work.ledger.projects.update(place.id, not_before=0.0)
        round_ = place.check()
        assert round_ is not None
        assert round_.reason == "0 more tasks"

    def test_a_check_takes_back_what_deleted_labels_said(self, make: Any) -> None:
        place = make()
        promote(place)
        place.studio.label(900, 1)
        place.check()
        assert [row.task_id for row in place.work.ledger.evidence.all(place.id)] == [900]
        del place.studio.stamped[900]
        active = place.work.ledger.rounds.active(place.id)
        if active is not None:
            place.work.ledger.rounds.fail(active.id, "not the point here")
        place.check()
        assert place.work.ledger.evidence.all(place.id) == []

    def test_enough_labels_start_training_instead(self, make: Any) -> None:
        place = make()
        place.studio.label(1, 2, 3, 4)
        round_ = place.check()
        assert round_ is not None
        assert round_.kind == "train"

    def test_it_makes_way_for_training(self, make: Any) -> None:
        place = make()
        start = place.check()
        assert start is not None
        assert place.check() is None  # it goes on undisturbed
        place.studio.label(1, 2, 3, 4)
        round_ = place.check()
        assert round_ is not None
        assert round_.kind == "train"
        cancelled = place.work.ledger.rounds.get(start.id)
        assert (cancelled.state, cancelled.error) == (
            "cancelled",
            "A training round became due.",
        )
        assert place.check() is None  # the training round is under way

    def test_what_its_worker_wrote_on_is_removed_in_time(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = make()
        start = place.check()
        assert start is not None
        place.studio.label(1, 2, 3, 4)
        training = place.check()
        assert training is not None
        slug = place.work.ledger.projects.get(place.id).slug
        registry = place.work.registry
        for round_ in (start, training):  # the cancelled one's worker was not done yet
            registry.put_round(slug, round_.id, "shard-1.gz", b"scratch")
        monkeypatch.setattr(jobs, "_workplace", lambda: nullcontext(place.work))
        place.work.ledger.events.add(place.id, "ANNOTATION_CREATED")  # no quiet moment
        jobs.clean(place.id)
        assert not (registry.root / slug / "rounds" / str(start.id)).exists()
        assert registry.has_round(slug, training.id, "shard-1.gz")

    def test_the_button_does_not_wait_for_it(self, make: Any) -> None:
        place = make()
        place.check()
        place.work.ledger.events.add(place.id, "START_TRAINING")
        round_ = place.check()
        assert round_ is not None
        assert round_.reason.startswith("asked for")

    def test_the_clock_looks_for_training_while_it_runs_and_not_beside_training(
        self, make: Any
    ) -> None:
        place = make()
        asked: list[str] = []
        nothing = SimpleNamespace(get_job_ids=lambda **_: [])
        queue = cast(
            Any,
            SimpleNamespace(
                enqueue_call=lambda **job: asked.append(job["func"]),
                get_job_ids=nothing.get_job_ids,
                started_job_registry=nothing,
            ),
        )

        def tick() -> int:
            before = len(asked)
            place.work.ledger.events.add(place.id, "START_TRAINING")
            place.work.ledger.projects.update(place.id, check_asked_at=None)
            Clock(place.work)._ask_for_jobs(queue, place.work.ledger.projects.get(place.id))
            return len(asked) - before

        place.check()
        assert tick() == 1
        assert asked == ["backend.jobs.check"]
        place.check()  # training starts
        assert tick() == 0

    def test_a_paused_project_is_left_alone(self, make: Any) -> None:
        place = make()
        place.work.ledger.projects.update(place.id, paused=True)
        assert place.check() is None

    def test_a_version_that_serves_is_not_replaced_by_none(self, make: Any) -> None:
        place = make()
        place.start()
        ledger = place.work.ledger
        made = ledger.publications.prepare(
            place.id, 1, place.ranking()[0].publication_id, arm="", quantiles=[], places=[]
        )
        place.studio.sent[made.name] = [{"task": 1}]
        ledger.publications.serve(made.id, 1)
        place.studio.task_ids += [10]
        assert place.check() is None

    def test_one_that_failed_blocks_no_training_and_is_tried_again_later(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> Iterator[Any]:
            raise DamagedWeights("the ImageNet weights are not installed")

        monkeypatch.setattr("training.networks.pretrained_features.pretrained_features", broken)
        place = make()
        round_ = place.check()
        assert round_ is not None
        with pytest.raises(DamagedWeights):
            place.play(round_)
        place.work.ledger.rounds.fail(round_.id, "score: the ImageNet weights are missing")
        assert place.check() is None
        place.studio.label(1, 2, 3, 4)
        training = place.check()
        assert training is not None
        assert training.kind == "train"
        place.work.ledger.rounds.fail(training.id, "not the point here")
        place.work.ledger.projects.update(place.id, not_before=0.0)
        place.studio.stamped.clear()
        assert place.check() is None
        monkeypatch.setattr(rounds, "START_AGAIN_S", 0.0)
        again = place.check()
        assert again is not None
        assert again.kind == "start"


# Publishing with a version, from shards that are drawn


def publish(
    place: OneProject,
    shards: Sequence[Mapping[int, Scored]],
    number: int = 1,
    drawn: Sequence[int] | None = None,
) -> tuple[Publication, list[Place]]:
    """Publish what a scoring left, in a ranking round of its own."""
    ledger = place.work.ledger
    round_ = ledger.rounds.start(place.id, "rank", "a test's", "choose", {})
    assert round_ is not None
    tasks = sum(len(shard) for shard in shards)
    slug = ledger.projects.get(place.id).slug
    payloads = [
        {"version": number, "tasks": [[task_id, ""] for task_id in shard]} for shard in shards
    ]
    [part] = ledger.parts.waiting()
    taken = ledger.parts.take(part.id, "test")
    assert taken is not None
    ledger.parts.finish(
        taken,
        Outcome(
            result={"pool": tasks, "unlabelled": tasks, "drawn": drawn}, next_payloads=payloads
        ),
        next_stage="score",
    )
    for shard in shards:
        taken = ledger.parts.take(ledger.parts.waiting()[0].id, "test")
        assert taken is not None
        file = write_shard(place.work, slug, round_.id, taken.payload, shard)
        ledger.parts.finish(
            taken,
            Outcome(result={"file": file, "scored": len(shard), "refused": 0}),
            next_stage="publish",
        )
    place.play(round_)
    return place.serving(), place.ranking()


def scored(task_id: int) -> Scored:
    rng = np.random.default_rng(task_id)
    return Scored(
        arms={arm: float(rng.random()) for arm in ARMS},
        features=halved(rng.normal(size=5).astype(np.float32)),
        class_scores=np.array([rng.random(), 0.0, rng.random()], np.float32),
    )


SHARDS = [{task_id: scored(task_id) for task_id in part} for part in (range(1, 30), range(30, 61))]


def promote(place: OneProject, **metrics: Any) -> None:
    """Version 1, as far as the ledger knows, and whole as far as its files go."""
    ledger, slug = place.work.ledger, place.work.ledger.projects.get(place.id).slug
    folder = place.work.settings.registry_path / slug / "versions" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "version.json").write_text('{"version": 1, "files": {}}')
    round_ = ledger.rounds.start(place.id, "train", "a test's", "collect", {})
    assert round_ is not None
    ledger.versions.record(
        place.id,
        1,
        round_.id,
        state="promoted",
        reason="",
        members=2,
        classes=("background", "Cell", "Cast"),
        metrics=metrics,
    )
    rewards = dict.fromkeys(MEASURES, 0.2) | {"variation_ratio": 0.9}
    taken = ledger.parts.take(ledger.parts.waiting()[0].id, "test")
    assert taken is not None
    ledger.parts.finish(
        taken,
        Outcome(
            judged=[
                evidence(
                    900,
                    round_.id,
                    rewards=rewards,
                    scores=dict.fromkeys(ARMS, 0.5),
                    chosen_for="",
                )
            ]
        ),
        next_stage=None,
    )


class TestPublish:
    def test_it_is_settled_by_the_shards_whatever_their_order(self, make: Any) -> None:
        queues = []
        for shards in (SHARDS, [dict(reversed(shard.items())) for shard in reversed(SHARDS)]):
            place = make()
            promote(place, labelled_images={"background": 9, "Cell": 9, "Cast": 1})
            serving, ranking = publish(place, shards)
            queues.append(
                [(row.task_id, row.position, row.why, row.uncertainty) for row in ranking]
            )
            assert serving.length == 60
        assert queues[0] == queues[1]
        assert {why for _, _, why, _ in queues[0]} == {"uncertainty", "class", "chance"}

    @pytest.mark.parametrize(
        ("mode", "heaviest"),
        [
            ("hedge", "variation_ratio"),
            ("leader", "variation_ratio"),
            ("fixed:least_confidence", "least_confidence"),
            ("fixed:mutual_information/object_max", "mutual_information"),
        ],
    )
    def test_a_mode_leaves_its_weights_and_their_quantiles(
        self, make: Any, mode: str, heaviest: str
    ) -> None:
        place = make()
        place.options(mode=mode, audit_fraction=0)
        promote(place)
        serving, ranking = publish(place, SHARDS)
        assert serving.mode == mode
        assert serving.arm.startswith(heaviest)
        assert sum(serving.weights.values()) == pytest.approx(1)
        assert len(serving.weights) == (30 if mode == "hedge" else 1)
        assert serving.arm_quantiles.keys() == serving.weights.keys()
        assert {len(each) for each in serving.arm_quantiles.values()} == {101}
        if mode != "hedge":
            by_task = {task_id: each.arms for shard in SHARDS for task_id, each in shard.items()}
            best = max(ranking, key=lambda row: row.uncertainty)
            assert best.task_id == max(by_task, key=lambda t: by_task[t][serving.arm])

    def test_by_chance_nothing_weighs(self, make: Any) -> None:
        place = make()
        place.options(mode="random", audit_fraction=0)
        promote(place)
        serving, ranking = publish(place, SHARDS)
        assert (serving.mode, serving.weights, serving.arm) == ("random", {}, "")
        assert {row.why for row in ranking} == {"chance"}

    def test_audits_stand_anywhere_and_say_so(self, make: Any) -> None:
        place = make()
        place.options(audit_fraction=0.5)
        promote(place)
        _, ranking = publish(place, SHARDS)
        slug = place.work.ledger.projects.get(place.id).slug
        for row in ranking:
            assert row.audit == rounds.is_audit(slug, row.task_id, 0.5)
            assert row.audit == (row.why == "audit")

    def test_what_was_labelled_meanwhile_keeps_the_reason_it_was_asked_for(self, make: Any) -> None:
        place = make()
        promote(place)
        first, ranking = publish(place, SHARDS)
        asked = {row.task_id: row.why for row in ranking}
        labelled = [row.task_id for row in ranking[:30]]
        place.studio.label(*labelled)  # while the next round is under way
        second, anew = publish(place, SHARDS)
        assert second.length == 30
        assert not {row.task_id for row in anew} & set(labelled)
        assert place.work.ledger.projects.get(place.id).left_out == 0
        now = dict.fromkeys(labelled, second.served_at + 60)
        chosen_for = place.work.ledger.publications.chosen_for(place.id, now)
        assert chosen_for == {task_id: asked[task_id] for task_id in labelled}
        assert first.served_at < second.served_at

    def test_chance_places_hold_only_what_was_drawn_evenly(self, make: Any) -> None:
        place = make(60)
        place.options(audit_fraction=0, candidates=30, queue_length=12)
        promote(place)
        publish(place, SHARDS)
        head = {row.task_id for row in place.ranking()}
        ledger = place.work.ledger
        round_ = ledger.rounds.start(place.id, "rank", "a test's", "choose", {})
        assert round_ is not None
        chosen = choose(place.work, round_, {}, lambda _share: None)
        task_ids = [t for payload in chosen.next_payloads for t, _ in payload["tasks"]]
        drawn = chosen.result["drawn"]
        assert head <= set(task_ids)
        assert len(drawn) == 18
        ledger.rounds.fail(round_.id, "chosen is all")
        shards = [{task_id: scored(task_id) for task_id in task_ids}]
        for drawn_ones in (drawn, [t for t in task_ids if t not in drawn]):
            _, ranking = publish(place, shards, drawn=drawn_ones)
            by_chance = {row.task_id for row in ranking if row.why == "chance"}
            assert by_chance
            assert by_chance <= set(drawn_ones)

    def test_where_chance_ranks_no_last_head_is_predicted(self, make: Any) -> None:
        for mode, metrics in (("random", {}), ("hedge", {"chance_gain": {"harms": True}})):
            place = make(60)
            place.options(audit_fraction=0, candidates=30, queue_length=12, mode=mode)
            promote(place, **metrics)
            publish(place, SHARDS)
            round_ = place.work.ledger.rounds.start(place.id, "rank", "a test's", "choose", {})
            chosen = choose(place.work, round_, {}, lambda _share: None)
            assert len(chosen.result["drawn"]) == 30

    def test_a_short_queue_leaves_the_rest_out(self, make: Any) -> None:
        place = make()
        place.options(queue_length=20, audit_fraction=0)
        promote(place)
        serving, _ = publish(place, SHARDS)
        assert serving.length == 20
        assert place.work.ledger.projects.get(place.id).left_out == 40

    def test_tasks_too_large_to_be_sent_give_their_places_to_others(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("backend.rounds.stages.publish.LARGEST_RESULT", 50)
        place = make()
        place.options(queue_length=20, audit_fraction=0)
        promote(place)
        large = {7, 40}
        shards = [
            {
                t: replace(each, result=b"[%51d]" % 1) if t in large else each
                for t, each in s.items()
            }
            for s in SHARDS
        ]
        serving, ranking = publish(place, shards)
        assert serving.length == 20
        assert not large & {row.task_id for row in ranking}
        problems = place.work.ledger.rounds.get(serving.round_id).problems
        assert [said.split(":")[0] for said in problems] == ["Task 7", "Task 40"]
        # They will not fit the next time either: they must not keep rounds going.
        assert place.work.ledger.projects.get(place.id).left_out == 38

    def test_what_was_interrupted_between_two_requests_never_serves(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = make()
        promote(place)

        def broken_off(_project_id: int, rows: Sequence[Json]) -> int:
            MemoryStudio.import_predictions(place.studio, 7, rows[:30])
            raise StudioUnreachable("killed")

        monkeypatch.setattr(place.studio, "import_predictions", broken_off)
        with pytest.raises(StudioUnreachable):
            publish(place, SHARDS)
        ledger = place.work.ledger
        assert len(place.studio.sent["committee-v1.1"]) == 30
        assert place.studio.settings == {}
        assert ledger.publications.serving(place.id) is None
        monkeypatch.undo()
        RUN["publish"](place.work, ledger.rounds.active(place.id), {}, lambda _share: None)
        assert place.serving().name == place.studio.settings["model_version"] == "committee-v1.2"
        sent = sorted(place.studio.sent["committee-v1.2"], key=lambda row: row["score"])
        assert [row["task"] for row in sent] == [row.task_id for row in place.ranking()]
        assert len({row["task"] for row in sent}) == len(sent) == 60
        states = {each.name: each.state for each in ledger.publications.all(place.id)}
        assert states == {"committee-v1.1": "failed", "committee-v1.2": "serving"}
        ledger.rounds.fail(ledger.rounds.active(place.id).id, "over")
        # In a day nobody can have one of its predictions open.
        deleted: list[str] = []
        later = time.time() + 2 * LOCK_TTL_S
        monkeypatch.setattr(time, "time", lambda: later)
        monkeypatch.setattr(
            place.studio,
            "delete_model_version",
            lambda _id, name: deleted.append(name),
            raising=False,
        )
        clean_project(place.work, ledger.projects.get(place.id))
        assert deleted == ["committee-v1.1"]
