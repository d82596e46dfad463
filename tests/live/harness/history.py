"""A real label history and the webhooks that Label Studio really sent of it, to be played again
in any order to a ledger that knows nothing yet."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from backend.commands.replay.strokes import label_config, strokes
from backend.label_studio.bulk import Project, Studio
from backend.label_studio.control import control_of
from backend.ledger import upgrade
from backend.rounds.schedule import check_project
from backend.rounds.stages import RUN
from backend.settings import load_settings
from backend.web.events import record_event
from backend.web.messages import Event, read_message
from backend.workplace import Workplace
from tests.live.harness.stack import CLASSES, TINY, UNKNOWN, Mask, draw_field
from training.fitting.folds import fold

TASKS = 8
STEPS = 30


class Listener:
    """Takes webhooks as our web does, and keeps their bodies."""

    def __init__(self) -> None:
        kept: list[Mapping[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.append(orjson.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(201)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        self.kept = kept
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/webhook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class Outcome:
    """What a check makes of a project, and what the round that it starts would learn from."""

    changed: int
    decision: tuple[str, str] | None
    manifest: Sequence[Mapping[str, Any]] | None


class History:
    """Webhooks in the order in which they came, and the state of the project after all of it.

    Args:
        where: Label Studio's URL and a token.
        folder: for ledgers and one registry.
    """

    def __init__(
        self,
        where: tuple[str, str],
        project: Project,
        events: Sequence[Mapping[str, Any]],
        folder: Path,
    ) -> None:
        self.events = events
        self._where, self._project, self._folder = where, project, folder
        self._known: dict[int, Outcome] = {}
        upgrade(f"sqlite:///{folder / 'empty.sqlite3'}")

    def outcome(self, came: Sequence[int], retrain_every: int) -> Outcome:
        """Deliver these webhooks, by number, and look at the project as the reconcile does."""
        if not came and retrain_every in self._known:
            return self._known[retrain_every]
        with self._ledger(retrain_every) as (work, project_id):
            self._deliver(work, came)
            found = _look(work, project_id)
            assert work.ledger.events.pending(project_id) == []
        if not came:
            self._known[retrain_every] = found
        return found

    def late(self, came: Iterable[int], retrain_every: int) -> tuple[int, int]:
        """Changed labels at a first look, and at one after a round and then these webhooks."""
        with self._ledger(retrain_every) as (work, project_id):
            first = _look(work, project_id)
            round_ = work.ledger.rounds.active(project_id)
            assert round_ is not None
            work.ledger.rounds.fail(round_.id, "over")
            self._deliver(work, came)
            return first.changed, _look(work, project_id).changed

    @contextmanager
    def _ledger(self, retrain_every: int) -> Iterator[tuple[Workplace, int]]:
        shutil.copy(self._folder / "empty.sqlite3", self._folder / "ledger.sqlite3")
        settings = load_settings(
            _env_file=None,
            data_dir=self._folder,
            label_studio_url=self._where[0],
            label_studio_api_key=self._where[1],
            redis_url="redis://127.0.0.1:1/0",  # nobody asks it
            basic_auth_user="committee",
            basic_auth_pass="throwaway-3",
        )
        work = Workplace(settings)
        try:
            row = work.ledger.projects.ensure(
                work.server,
                self._project.id,
                self._project.created,
                label_config=self._project.label_config,
                extra_params={**TINY, "retrain_every": retrain_every},
            )
            yield work, row.id
        finally:
            work.studio.close()
            work.close()
            for left in self._folder.glob("ledger.sqlite3*"):
                left.unlink()

    def _deliver(self, work: Workplace, came: Iterable[int]) -> None:
        for number in came:
            body = self.events[number]
            record_event(work, read_message(Event, body))


def _look(work: Workplace, project_id: int) -> Outcome:
    started = check_project(work, project_id)
    changed = work.ledger.projects.get(project_id).changed
    if started is None:
        return Outcome(changed, None, None)
    decision = started.kind, started.reason
    if started.kind != "train":
        return Outcome(changed, decision, None)
    collected = RUN["collect"](work, started, {}, lambda _share: None)
    part = work.ledger.parts.take(work.ledger.parts.of_round(started.id)[0].id, "a test")
    assert part is not None
    work.ledger.parts.finish(part, collected, next_stage="judge")
    return Outcome(changed, decision, collected.manifest)


@contextmanager
def record_history(url: str, api_key: str, folder: Path) -> Iterator[History]:
    """Have annotators draw, edit, skip and delete in a project of its own, by seeded chance."""
    studio, listener = Studio(url, api_key), Listener()
    project = control_of(studio).projects.create(
        title="history", label_config=label_config(CLASSES, UNKNOWN)
    )
    try:
        control_of(studio).webhooks.create(
            project=project.id,
            url=listener.url,
            send_payload=True,
            send_for_all_actions=True,
            is_active=True,
        )
        fields = [draw_field(seed) for seed in range(TASKS)]
        tasks = studio.upload(
            project.id, [(f"field-{seed}.png", png) for seed, (png, _) in enumerate(fields)]
        )
        masks = {task: mask for task, (_, mask) in zip(tasks, fields, strict=True)}
        _work_on(studio, masks)
        shown = studio.project(project.id)
        yield History((url, api_key), shown, tuple(listener.kept), folder)
    finally:
        listener.close()
        control_of(studio).projects.delete(project.id)
        studio.close()


def _work_on(studio: Studio, masks: Mapping[int, Mask]) -> None:
    rng, there = random.Random(8), dict[int, int]()  # annotation to task
    for _ in range(STEPS):
        task = rng.choice(list(masks))
        act = rng.choice(["draw", "draw", "skip", "edit", "delete"])
        if act in ("draw", "skip") or not there:
            made = studio.annotate(
                task, strokes(masks[task], CLASSES, UNKNOWN, None), was_cancelled=act == "skip"
            )
            there[made["id"]] = task
        elif act == "edit":
            chosen = rng.choice(list(there))
            result = strokes(masks[there[chosen]], CLASSES, UNKNOWN, None)
            control_of(studio).annotations.update(chosen, result=result)
        else:
            chosen = rng.choice(list(there))
            control_of(studio).annotations.delete(chosen)
            del there[chosen]
    # Both members find something to learn from, whatever numbers the tasks have.
    for member in range(TINY["members"]):
        task = next(t for t in masks if fold(str(t), TINY["members"]) != member)
        studio.annotate(task, strokes(masks[task], CLASSES, UNKNOWN, None))
