"""What a laboratory's months bring: a Redis that is away, a Label Studio that is slow, refuses, is
restarted or restored from a backup, a damaged version. Real servers; only the trouble is made.

The tests follow each other: they are one history of one project.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.insight.findings.examine import examine
from backend.insight.status import project_status
from backend.label_studio import client
from backend.label_studio.bulk import Studio
from backend.label_studio.control import control_of
from backend.ledger import Publication, Round
from backend.rounds.schedule import RECONCILE_S, count_changes, label_states
from backend.web.app import build_app
from tests.limits import scaled
from tests.live.harness.history import History, record_history
from tests.live.harness.local_worker import short_waits
from tests.live.harness.proxy import Fault, Proxy, every_way_to_fail
from tests.live.harness.servers import (
    LabelStudio,
    files_that_may_not_grow,
    start_label_studio,
    start_valkey,
)
from tests.live.harness.stack import Stack, TinyProject, make_project, start_stack

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

INITIAL = 6

SLOW_S = 2.0
"""Twice what Label Studio itself gives a webhook."""


@dataclass
class Site:
    """A Label Studio of our own, which is met through a proxy alone, and a system that meets it."""

    server: LabelStudio
    proxy: Proxy
    stack: Stack

    def start_again(self) -> None:
        port = int(self.server.url.rsplit(":", 1)[1])
        self.server = start_label_studio(self.server.data_dir, port=port)

    @contextmanager
    def asked_meanwhile(self, project: TinyProject) -> Iterator[None]:
        """A client that asks while the server is down has its answer once it is there again."""
        with (
            # Where other programs run, it starts later than a client that ships waits for it.
            pytest.MonkeyPatch.context() as patch,
            Studio(self.server.url, self.server.api_key) as studio,
            ThreadPoolExecutor(1) as pool,
        ):
            patch.setattr(client, "RETRY_AFTER_S", [scaled(1)] * 60)
            answer = pool.submit(studio.project, project.id)
            yield
            assert answer.result(scaled(60)).id == project.id

    @property
    def database(self) -> Path:
        return self.server.data_dir / "label_studio.sqlite3"

    def told(self, project: TinyProject) -> str | None:
        """The last error, as ``status`` shows it."""
        row = self.stack.work.ledger.projects.get(project.row_id)
        return project_status(self.stack.work.ledger, row).last_error


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, label_studio_template: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("faults")
    server = start_label_studio(folder / "label-studio", template=label_studio_template)
    proxy = Proxy(server.url)
    stack = start_stack(folder / "stack", server, label_studio_url=proxy.url)
    site = Site(server, proxy, stack)
    with short_waits():
        yield site
    stack.stop()
    proxy.close()
    site.server.stop()


@pytest.fixture(scope="module")
def project(site: Site) -> TinyProject:
    """Its first version serves. A lone member is promoted if it is sane, however the last did."""
    made = make_project(site.stack, "faults", 12, members=1)
    made.label(*made.few(INITIAL))
    site.stack.work.ledger.events.add(made.row_id, "RETRAIN")
    row = site.stack.await_round(made)
    assert (row.state, row.error) == ("succeeded", None)
    return made


def name_of(serving: Publication | None) -> str:
    assert serving is not None
    return str(serving.name)


class TestRedis:
    def test_what_came_while_it_was_away_is_done_when_it_is_back(
        self, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stack = site.stack
        lonely = make_project(stack, "faults lonely", 1)
        ledger = stack.work.ledger
        stack.wait(lambda: ledger.projects.get(lonely.row_id).checked_at, "the first check")
        port = int(re.search(r":(\d+)/", stack.valkey.url)[1])  # type: ignore[index]
        stack.valkey.stop()
        try:
            key = stack.work.studio.project(lonely.id).key
            answer = stack.post("/webhook", {"action": "START_TRAINING", "project": key})
            assert answer.status_code == 201
            stack.wait(lambda: "missed a tick" in caplog.text, "the clock to notice")
            (event,) = ledger.events.pending(lonely.row_id)
            assert event.action == "START_TRAINING"
            assert stack.last_train(lonely) is None
        finally:
            stack.valkey = start_valkey(tmp_path, port=port)
        # Nothing is labelled: the round that was asked for ends by saying so.
        row = stack.await_round(lonely)
        assert row.state == "failed"
        assert "A round needs labels on at least 2 images, got 0" in row.error
        assert site.told(lonely) == row.error


@contextmanager
def locked(site: Site) -> Iterator[None]:
    lock = sqlite3.connect(site.stack.settings.ledger_path, isolation_level=None)
    try:
        lock.execute("BEGIN IMMEDIATE")
        yield
    finally:
        lock.close()


def full(site: Site) -> AbstractContextManager[None]:
    return files_that_may_not_grow(*(process.pid for process in site.stack.web.family()))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of a running process")
class TestALedgerThatCannotBeWritten:
    @pytest.mark.parametrize(("trouble", "number"), [(locked, 0), (full, 1)])
    def test_loses_no_label(
        self,
        site: Site,
        project: TinyProject,
        trouble: Callable[[Site], AbstractContextManager[None]],
        number: int,
    ) -> None:
        stack, ledger = site.stack, site.stack.work.ledger
        site.stack.check(project)
        before = ledger.projects.get(project.row_id).changed
        task_id = project.few(INITIAL)[number]
        (annotation,) = stack.work.studio.annotations(task_id)
        key = stack.work.studio.project(project.id).key
        with trouble(site):
            # Label Studio's own webhook meets the trouble as well, inside this very call.
            control_of(stack.work.studio).annotations.update(
                annotation["id"], result=project.result(task_id)
            )
            answer = stack.post("/webhook", {"action": "START_TRAINING", "project": key})
            assert answer.status_code == 503
            assert "The ledger cannot be read or written now" in answer.json()["error"]
        assert ledger.events.pending(project.row_id) == []
        # Two minutes later; the clock and a worker do the rest.
        then = time.time() - RECONCILE_S
        ledger.projects.update(project.row_id, checked_at=then, check_asked_at=then)
        stack.wait(
            lambda: ledger.projects.get(project.row_id).changed == before + 1,
            "the reconcile to find the label",
        )


SAID = {
    "500": "answered 500 to GET",
    "502": "answered 502 to GET",
    "401": "does not know our token",
    "403": "does not allow our user",
    "404 to everything": "answered 404, and not as Label Studio does",
    "429": "answered 429 to GET",
    "a page instead of JSON": "something other than JSON",
    "JSON of another shape": "The check of Label Studio failed: KeyError",
    "a list instead of an object": "The check of Label Studio failed: TypeError",
    "cut connections": "did not answer GET",
}


class TestALabelStudioInTrouble:
    @pytest.mark.parametrize("trouble", every_way_to_fail())
    def test_is_told_and_forgotten_when_it_is_over(
        self, site: Site, project: TinyProject, trouble: str
    ) -> None:
        before = name_of(project.serving())
        with site.proxy.failing(every_way_to_fail()[trouble]()):
            site.stack.check(project)
        told = site.told(project)
        assert told is not None
        assert SAID[trouble] in told
        assert site.stack.work.ledger.projects.get(project.row_id).connected
        site.stack.check(project)
        assert site.told(project) is None
        assert name_of(project.serving()) == before

    def test_that_is_slow_with_each_answer_holds_nobody_up(
        self, site: Site, project: TinyProject
    ) -> None:
        studio = site.stack.work.studio
        key, schema = studio.project(project.id).key, studio.project(project.id).label_config
        known = site.stack.work.ledger.projects.get(project.row_id)
        looked_at, options = known.checked_at, known.extra_params
        slow = Fault(delay_s=SLOW_S)
        with site.proxy.failing(slow):
            check = threading.Thread(target=site.stack.check, args=(project,))
            check.start()
            body = {"project": key, "schema": schema, "extra_params": options}
            answer = site.stack.post("/setup", body)
            assert answer.json() == {"model_version": name_of(project.serving())}
            event = {"action": "LABEL_LINK_CREATED", "project": key}
            assert site.stack.post("/webhook", event).status_code == 201
            assert check.is_alive()
            check.join()
        assert slow.met >= 3
        assert site.told(project) is None
        assert site.stack.work.ledger.projects.get(project.row_id).checked_at > looked_at


@pytest.fixture(scope="module")
def unlucky(site: Site) -> TinyProject:
    """Nothing serves it yet, and all that is labelled on it is background."""
    made = make_project(site.stack, "faults unlucky", 8, members=1)
    for task_id in made.few(INITIAL):
        site.stack.work.studio.annotate(task_id, [])
    return made


class TestARoundThatCannotSucceed:
    """A history of its own, from labels that teach nothing to a version that serves."""

    def asked_for(self, site: Site, project: TinyProject) -> Round:
        """The training round that somebody asks for, when it has ended."""
        ledger, last = site.stack.work.ledger, site.stack.last_train(project)
        before = 0 if last is None else last.id
        ledger.events.add(project.row_id, "RETRAIN")

        def ended() -> Round | None:
            found = site.stack.last_train(project)
            return found if found and found.id > before and found.state != "active" else None

        return site.stack.wait(ended, "the round that was asked for")

    def test_says_why_and_waits_longer_each_time(self, site: Site, unlucky: TinyProject) -> None:
        ledger = site.stack.work.ledger
        waits = []
        for failures in (1, 2):
            row = self.asked_for(site, unlucky)
            assert row.state == "failed"
            assert row.error.startswith("collect: Nothing but background is labelled")
            assert site.told(unlucky) == row.error
            told = ledger.projects.get(unlucky.row_id)
            assert told.failures == failures
            waits.append(told.not_before - row.ended_at)
        assert waits[1] > 1.9 * waits[0] > 60

    def test_because_no_image_can_be_read_names_one_and_the_next_round_succeeds(
        self, site: Site, unlucky: TinyProject
    ) -> None:
        studio = site.stack.work.studio
        for task_id in unlucky.few(INITIAL):
            (annotation,) = studio.annotations(task_id)
            control_of(studio).annotations.update(annotation["id"], result=unlucky.result(task_id))
        with site.proxy.failing(Fault(status=404, path="/data/upload/")):
            row = self.asked_for(site, unlucky)
        assert row.state == "failed"
        assert f"{INITIAL} unreadable). First problem: Task" in row.error
        assert "No image at /data/upload/" in row.error
        row = self.asked_for(site, unlucky)
        assert (row.state, row.error) == ("succeeded", None)
        assert site.told(unlucky) is None
        assert site.stack.work.ledger.projects.get(unlucky.row_id).failures == 0

    def test_leaves_the_predictions_as_they_were(self, site: Site, unlucky: TinyProject) -> None:
        studio = site.stack.work.studio
        serving, held = name_of(unlucky.serving()), studio.model_versions(unlucky.id)
        assert serving in held
        for task_id in unlucky.few(INITIAL):
            (annotation,) = studio.annotations(task_id)
            control_of(studio).annotations.update(annotation["id"], result=[])
        assert self.asked_for(site, unlucky).state == "failed"
        assert name_of(unlucky.serving()) == serving
        assert studio.project(unlucky.id).model_version == serving
        assert studio.model_versions(unlucky.id) == held


class TestTroubleInTheMiddleOfARound:
    def ranked(self, site: Site, project: TinyProject, *faults: Fault) -> tuple[Round, str]:
        """A ranking round that met these faults, and what ``status`` told meanwhile."""
        stack, ledger = site.stack, site.stack.work.ledger
        told: set[str] = set()

        def ended() -> Round | None:
            if (said := site.told(project)) is not None:
                told.add(said)
            found = ledger.rounds.get(row.id)
            return None if found.state == "active" else found

        # A check would meet the faults instead: the last one is over, the next one not due.
        ledger.projects.update(project.row_id, not_before=0.0)  # else events wait with training
        stack.wait(lambda: not ledger.events.pending(project.row_id), "the last check")
        ledger.projects.update(project.row_id, last_error=None, checked_at=time.time())
        with site.proxy.failing(*faults):
            row = ledger.rounds.start(project.row_id, "rank", "a test's", "choose", {})
            assert row is not None
            done = stack.wait(ended, "the ranking")
        assert (done.state, done.error, done.problems) == ("succeeded", None, [])
        serving = project.serving()
        assert serving is not None
        assert serving.round_id == row.id
        assert stack.work.studio.model_versions(project.id)[serving.name] == serving.length
        assert site.told(project) is None
        return done, " ".join(sorted(told))

    @pytest.mark.parametrize(
        "trouble", ["500", "401", "403", "404 to everything", "a page instead of JSON"]
    )
    def test_is_told_and_tried_again(self, site: Site, unlucky: TinyProject, trouble: str) -> None:
        asked, stored, who = (every_way_to_fail()[trouble]() for _ in range(3))
        asked.path, asked.times = f"/api/projects/{unlucky.id}", 1
        stored.path, stored.times = "/import/predictions", 1
        # To tell a lost project from a lost Label Studio, both are asked.
        who.path, who.times = "/whoami", 2
        done, told = self.ranked(site, unlucky, asked, stored, who)
        assert (asked.met, stored.met) == (1, 1)
        assert SAID[trouble].removesuffix(" to GET") in told
        attempts = {p.stage: p.attempts for p in site.stack.work.ledger.parts.of_round(done.id)}
        assert attempts["choose"] > 1
        assert attempts["publish"] > 1

    @pytest.mark.parametrize("status", [500, 403, 404])
    def test_with_images_is_told_from_an_image_that_is_bad(
        self, site: Site, unlucky: TinyProject, status: int
    ) -> None:
        image = Fault(status=status, path="/data/upload/", times=2)
        who = Fault(status=status, path="/whoami", times=2)
        done, told = self.ranked(site, unlucky, image, who)
        assert image.met == 2
        assert f"answered {status}" in told or "does not allow our user" in told
        assert max(p.attempts for p in site.stack.work.ledger.parts.of_round(done.id, "score")) > 1

    def test_with_every_image_leaves_the_queue_and_is_tried_again_in_an_hour(
        self, site: Site, unlucky: TinyProject
    ) -> None:
        stack, ledger = site.stack, site.stack.work.ledger
        serving = name_of(unlucky.serving())
        with site.proxy.failing(Fault(status=500, path="/data/upload/")):
            row = ledger.rounds.start(unlucky.row_id, "rank", "a test's", "choose", {})
            assert row is not None
            stack.wait(lambda: ledger.rounds.get(row.id).state != "active", "the ranking")
        done = ledger.rounds.get(row.id)
        assert "images that were chosen could be read, so the queue is as it was" in str(
            done.problems
        )
        assert name_of(unlucky.serving()) == serving
        site.stack.check(unlucky)
        assert ledger.rounds.active(unlucky.row_id) is None
        with ledger.database.write() as db:  # an hour later
            db.get_one(Round, row.id).ended_at = 1.0
        site.stack.check(unlucky)
        again = ledger.rounds.active(unlucky.row_id)
        assert again is not None
        assert again.reason == "no image could be read the last time"
        stack.wait(lambda: ledger.rounds.get(again.id).state != "active", "the next one")
        assert name_of(unlucky.serving()) != serving

    def test_slowness_delays_it_and_no_more(self, site: Site, unlucky: TinyProject) -> None:
        slow = Fault(delay_s=SLOW_S, path=f"/api/projects/{unlucky.id}", times=4)
        done, told = self.ranked(site, unlucky, slow)
        assert (slow.met, told) == (4, "")
        assert {p.attempts for p in site.stack.work.ledger.parts.of_round(done.id)} == {1}

    def test_does_not_lose_or_double_what_predict_had_no_time_for(
        self, site: Site, unlucky: TinyProject
    ) -> None:
        stack, ledger, studio = site.stack, site.stack.work.ledger, site.stack.work.studio
        serving = name_of(unlucky.serving())
        assert studio.model_versions(unlucky.id)[serving] < len(unlucky.tasks)
        lost = Fault(status=503, path="/import/predictions", times=1)
        for _ in range(2):
            event = ledger.events.add(unlucky.row_id, "PREDICT_REST", unlucky.tasks)
            with site.proxy.failing(lost):
                stack.wait(
                    lambda event=event: (  # type: ignore[misc]  # bound now
                        event not in [e.id for e in ledger.events.pending(unlucky.row_id)] or None
                    ),
                    "the rest to be stored",
                )
        assert lost.met == 1
        held = [p["model_version"] for t in unlucky.tasks for p in studio.predictions(t)]
        assert held.count(serving) == len(unlucky.tasks)


class TestARestart:
    def test_is_met_again_without_a_hand(
        self, site: Site, project: TinyProject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Down when training is asked for; then no images for a while, then a lost answer."""
        stack, more = site.stack, [t for t in project.tasks if t not in project.few(INITIAL)][:2]
        _back_up(site.database, tmp_path_factory.getbasetemp() / "backup.sqlite3")
        project.label(*more)
        key = stack.work.studio.project(project.id).key
        site.server.stop()
        answer = stack.post("/webhook", {"action": "START_TRAINING", "project": key})
        assert answer.status_code == 201
        told = stack.wait(lambda: site.told(project), "status to tell of it")
        assert "did not answer GET" in told
        no_images = Fault(status=503, path="/data/upload/", times=5)
        lost = Fault(cut=True, path="/import/predictions", times=1)
        with site.proxy.failing(no_images, lost):
            site.start_again()
            row = stack.await_round(project, 2)
        assert (row.state, row.error, row.problems) == ("succeeded", None, [])
        assert (no_images.met, lost.met) == (5, 1)
        parts = stack.work.ledger.parts.of_round(row.id)
        assert {p.stage for p in parts if p.attempts > 1} >= {"collect", "publish"}
        assert site.told(project) is None
        # What Label Studio had stored before its answer was lost is not stored again.
        held = stack.work.studio.model_versions(project.id)
        ours = {name: count for name, count in held.items() if name.startswith("committee-v2.")}
        serving = project.serving()
        assert serving is not None
        assert ours == {"committee-v2.1": serving.length}


class TestARestoredBackup:
    """The backup is from before the second round: its labels, and its queue, are gone."""

    def test_is_noticed_and_a_queue_made_anew(
        self, site: Site, project: TinyProject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        stack, studio = site.stack, site.stack.work.studio
        assert name_of(project.serving()) == "committee-v2.1"
        site.server.stop()
        shutil.copy(tmp_path_factory.getbasetemp() / "backup.sqlite3", site.database)
        with site.asked_meanwhile(project):
            site.start_again()
        assert studio.project(project.id).model_version == "committee-v1.1"

        site.stack.check(project)
        ledger = stack.work.ledger
        manifest = ledger.rounds.last_manifest(project.row_id)
        states = label_states(studio.stamps(project.id))
        assert ledger.projects.get(project.row_id).changed == count_changes(states, manifest) == 2
        row = ledger.rounds.active(project.row_id)
        assert row is not None
        assert (row.kind, row.reason) == ("rank", "Label Studio holds no ranked queue")
        stack.wait(lambda: ledger.rounds.get(row.id).state == "succeeded", "the ranking")
        assert name_of(project.serving()) == "committee-v2.2"
        assert studio.project(project.id).model_version == "committee-v2.2"
        assert set(project.ranking()) == set(project.tasks) - states.keys()
        found = examine(stack.work, [project.id])
        assert [f for f in found if f.project == project.id and f.severity == "error"] == []

    def test_a_queue_that_is_there_and_not_served_is_served_again(
        self, site: Site, project: TinyProject
    ) -> None:
        """As a backup from between the import and the switch leaves it, or a connection by hand."""
        studio = site.stack.work.studio
        for other in ("committee-v1.1", ""):
            studio.update_project(project.id, model_version=other, sampling="Uniform sampling")
            site.stack.check(project)
            mended = studio.project(project.id)
            assert (mended.model_version, mended.sampling) == (
                "committee-v2.2",
                "Uncertainty sampling",
            )
        assert site.stack.work.ledger.rounds.active(project.row_id) is None

    def test_tasks_that_are_gone_are_not_left_in_the_queue(
        self, site: Site, project: TinyProject
    ) -> None:
        ledger = site.stack.work.ledger
        left = ledger.projects.get(project.row_id).ranked_left
        control_of(site.stack.work.studio).tasks.delete(str(project.ranking()[-1]))
        site.stack.check(project)
        row = ledger.projects.get(project.row_id)
        assert (row.ranked_left, row.pool) == (left - 1, len(project.tasks) - 1)


class TestADamagedVersion:
    def test_is_refused_and_the_one_before_it_looks(self, site: Site, project: TinyProject) -> None:
        stack, work = site.stack, site.stack.work
        row = work.ledger.projects.get(project.row_id)
        member = work.registry.version_path(row.slug, 2) / "member-00.safetensors"
        whole = member.read_bytes()
        member.write_bytes(whole[: len(whole) // 2])
        shown = work.studio.project(project.id)
        task = next(iter(work.studio.tasks(project.id)))
        body = {"tasks": [{"id": task.id, "data": task.data}], "project": shown.key}
        app = build_app(stack.settings)  # a web that has not loaded the version yet
        with app.test_client() as web:
            answer = web.post("/predict", json=body, auth=stack.auth)
        assert answer.status_code == 200
        ((prediction,),) = answer.json["results"]
        assert prediction["model_version"] == "committee-v2.2"
        app.extensions["committee"].close()

        site.stack.check(project)
        told = site.told(project)
        assert told is not None
        assert "Version 2 is damaged, so version 1 predicts new images" in told
        assert str(member) in told
        codes = {f.code: f for f in examine(work, [project.id]) if f.severity == "error"}
        assert codes["version-damaged"].fixable

        ranked = work.ledger.rounds.start(project.row_id, "rank", "a test's", "choose", {})
        assert ranked is not None
        stack.wait(lambda: work.ledger.rounds.get(ranked.id).state != "active", "the ranking")
        done = work.ledger.rounds.get(ranked.id)
        assert (done.state, done.problems) == ("succeeded", [told])
        assert name_of(project.serving()) == "committee-v1.2"
        site.stack.check(project)
        assert site.told(project) == told  # a round that went well has not mended it

        member.write_bytes(whole)
        site.stack.check(project)
        assert site.told(project) is None


@pytest.fixture(scope="module")
def history(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """What annotators did, and the webhooks that Label Studio sent of it."""
    folder = tmp_path_factory.mktemp("history")
    with record_history(site.server.url, site.server.api_key, folder) as recorded:
        yield recorded


class TestWebhooks:
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_lost_doubled_or_out_of_order_end_in_the_same_state(
        self, history: History, data: st.DataObject
    ) -> None:
        numbers = st.integers(0, len(history.events) - 1)
        came = data.draw(st.lists(numbers, max_size=2 * len(history.events)))
        for retrain_every in (3, 1000):
            expected = history.outcome([], retrain_every)
            assert history.outcome(came, retrain_every) == expected

    def test_a_day_late_change_nothing(self, history: History) -> None:
        assert history.events
        everything = range(len(history.events))
        assert history.late(everything, retrain_every=3) == (history.outcome([], 3).changed, 0)


def _back_up(database: Path, to: Path) -> None:
    """By SQLite itself, as an operator's nightly job does: whole, though Label Studio runs."""
    source, target = sqlite3.connect(database), sqlite3.connect(to)
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()
