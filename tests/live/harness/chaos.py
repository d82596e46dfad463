"""A laboratory that is killed bit by bit: real servers, an annotator at work, and kill -9.

``Chaos`` plays the service manager as well: what it kills it starts again, on the same ports and
data. Whether a blow fell while a stage was at work, and when the round went on after it, are read
from the ledger.
"""

from __future__ import annotations

import random
import re
import shutil
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import redis
import requests

from backend.commands.replay.strokes import strokes
from backend.errors import StudioUnreachable
from backend.ledger import START, Part, Round
from backend.rounds.schedule import STAGES
from tests.limits import wait_until
from tests.live.harness.servers import LabelStudio, StudioUser, start_label_studio, start_valkey
from tests.live.harness.stack import (
    CLASSES,
    UNKNOWN,
    Mask,
    Stack,
    TinyProject,
    draw_field,
    make_project,
    start_stack,
)

VICTIMS = ("horse", "worker", "web", "Valkey", "Label Studio")

TRAINING = tuple(f"train {stage}" for stage in STAGES["train"])
FIRST_ORDER = tuple(f"{START} {stage}" for stage in STAGES[START])

IN_TURN = frozenset((stage, victim) for stage in TRAINING for victim in VICTIMS) | frozenset(
    (stage, victim) for stage in FIRST_ORDER for victim in ("horse", "worker")
)
"""(stage, victim): what the soak kills while that stage is at work."""

EACH_VICTIM = frozenset(
    {
        ("train collect", "Label Studio"),
        ("train judge", "Valkey"),
        ("train fit", "horse"),
        ("train assemble", "web"),
        ("train choose", "Valkey"),
        ("train score", "web"),
        ("train publish", "worker"),
    }
)
"""What `make test` kills: each kind of victim once, web and Valkey in both ways."""

NEXT_LIMIT_S = 240.0
"""For the next stage to come round; a whole round takes some 30 s on two idle cores."""

MOVE_LIMIT_S = 150.0
"""For a round to go on after a blow; how long it may take is the test's to say."""

GONE_LIMIT_S = 60.0
"""For the children of a killed parent to end by themselves: a Python that is told to end
frees its memory first."""

MORE_IMAGES = 12


@dataclass(frozen=True)
class Held:
    """A part that a worker held when a blow fell."""

    stage: str
    round_id: int
    part_id: int
    attempts: int


@dataclass(frozen=True)
class Blow:
    """One kill -9.

    Attributes:
        how: what exactly was killed, and how it came back.
        at: unix seconds.
        held: the parts that it fell upon.
        recovered_s: until all of it was at work again, without the time for which a stage that
            the blow did not stop went on.
    """

    phase: str
    victim: str
    how: str
    at: float
    held: tuple[Held, ...]
    recovered_s: float = 0.0


class Annotator(threading.Thread):
    """Opens the next task, looks at it, corrects the pre-annotation, submits; again and again.

    Repeats what a person's browser would repeat, a call to a server that is down, and nothing
    else: what is answered otherwise is ``refused``.
    """

    def __init__(self, chaos: Chaos, user: StudioUser, seed: int) -> None:
        super().__init__(name="annotator", daemon=True)
        self._chaos = chaos
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Token {user.api_key}"
        self.submitted = 0
        self.with_prediction = 0
        self.repeated = 0
        self.refused: list[str] = []
        self.crashed: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                task = self.open_next()
                if task is None:
                    self._chaos.add_images()
                    continue
                self._ended.wait(self._random.uniform(1.0, 4.0))  # a look at the image
                self.submit(task)
        except BaseException as error:
            self.crashed = error  # the test reads it
            raise

    def has_met_a_prediction(self) -> bool:
        if self.crashed is not None:
            raise self.crashed
        return self.with_prediction > 0

    def end(self) -> None:
        """Once the task at hand is submitted."""
        self._ended.set()
        self.join(NEXT_LIMIT_S)
        if self.crashed is not None:
            raise self.crashed

    def open_next(self) -> Mapping[str, Any] | None:
        answer = self._call("GET", f"/api/projects/{self._chaos.project.id}/next/")
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            self.refused.append(f"next: {answer.status_code} {answer.text[:300]}")
            return None
        task: Mapping[str, Any] = answer.json()
        return task

    def submit(self, task: Mapping[str, Any]) -> None:
        shown = next(iter(task["predictions"]), None)
        result = strokes(_true_mask(task), CLASSES, UNKNOWN, shown)
        body: dict[str, Any] = {"result": result, "lead_time": 1.0}
        if shown is not None:
            body["parent_prediction"] = shown["id"]
        answer = self._call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
        if answer.status_code != 201:
            self.refused.append(f"submit: {answer.status_code} {answer.text[:300]}")
            return
        self.submitted += 1
        self.with_prediction += shown is not None

    def _call(self, method: str, path: str, **body: Any) -> requests.Response:
        while True:
            try:
                return self._session.request(
                    method, self._chaos.label_studio_url + path, timeout=120, **body
                )
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                self.repeated += 1
                wait_until(self._chaos.studio_answers, NEXT_LIMIT_S, "Label Studio to be back")


@dataclass
class Chaos:
    """The running system and what was done to it.

    Args:
        folder: all state; the processes are known by it.
    """

    folder: Path
    stack: Stack
    project: TinyProject
    seed: int
    blows: list[Blow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.label_studio_url = self.stack.label_studio.url
        self._adding = threading.Lock()
        self._images = len(self.project.tasks)
        self._counts: Counter[str] = Counter()

    # What is there

    @property
    def ledger(self) -> Any:
        return self.stack.work.ledger

    def studio_answers(self) -> bool:
        try:
            return requests.get(f"{self.label_studio_url}/health", timeout=5).status_code == 200
        except (requests.ConnectionError, requests.Timeout):
            return False

    def add_images(self, count: int = MORE_IMAGES) -> None:
        """Upload fields that nobody has seen, again if Label Studio was down."""
        with self._adding:
            seeds = range(self._images, self._images + count)
            self._images += count
        files = [(f"field-{seed}.png", draw_field(seed)[0]) for seed in seeds]
        while True:
            try:
                self.stack.work.studio.upload(self.project.id, files)
                return
            except StudioUnreachable:
                wait_until(self.studio_answers, NEXT_LIMIT_S, "Label Studio to be back")

    def at_work(self) -> tuple[Round | None, list[Part]]:
        """The active round, and its parts whose worker was heard of within its lease."""
        round_ = self.ledger.rounds.active(self.project.row_id)
        if round_ is None:
            return None, []
        now = time.time()
        parts = self.ledger.parts.of_round(round_.id, round_.stage)
        return round_, [p for p in parts if p.state == "leased" and p.lease_until > now]

    def press_start(self) -> None:
        """Ask for a round, unless one is asked for."""
        pending = self.ledger.events.pending(self.project.row_id)
        if not any(event.action == "RETRAIN" for event in pending):
            self.ledger.events.add(self.project.row_id, "RETRAIN")

    def want_order(self) -> None:
        """Add an image, so that before the first version the images are put in order anew."""
        row = self.ledger.projects.get(self.project.row_id)
        if row.checked_at is not None and not self.ledger.events.pending(row.id):
            self.add_images(1)

    # What is done to it

    def in_turn(self, cells: Collection[tuple[str, str]], when_idle: Callable[[], None]) -> None:
        """One blow for each (stage, victim), each while a part of that stage is leased."""
        missing = set(cells)

        def target() -> tuple[str, str, int] | None:
            round_, parts = self.at_work()
            if round_ is None:
                when_idle()
            for part in parts:
                stage = f"{round_.kind} {part.stage}"  # type: ignore[union-attr]  # it has parts
                for victim in VICTIMS:
                    if (stage, victim) in missing and self._is_ripe(stage, victim, part):
                        return stage, victim, part.id
            return None

        while missing:
            what = f"a stage of {sorted(missing)}"
            found = wait_until(target, NEXT_LIMIT_S, what, every_s=0.03)
            assert found is not None  # wait_until gives what is truthy
            stage, victim, part_id = found
            self._let_pass(self.random.uniform(0.0, 0.4))
            blow = self._strike("in turn", victim, part_id)
            if blow is None:
                continue
            self._recover([blow])
            if any(held.stage == stage for held in blow.held):
                missing.discard((stage, victim))

    def at_random(self, until: float) -> None:
        """Blows by chance, two at once among them, until ``until`` (monotonic seconds)."""
        while time.monotonic() < until:
            if self.at_work()[0] is None:
                self.press_start()
            self._let_pass(self.random.uniform(0.2, 4.0))
            victims = self.random.sample(VICTIMS, self.random.choice((1, 1, 2)))
            blows = [self._strike("at random", victim, None) for victim in victims]
            self._recover([blow for blow in blows if blow is not None])

    def _let_pass(self, seconds: float) -> None:
        """The moment of a blow is chance's; there is no condition to wait for."""
        threading.Event().wait(seconds)

    def _strike(self, phase: str, victim: str, part_id: int | None) -> Blow | None:
        """Kill it; None if it is not there, or the part was finished before the blow fell."""
        round_, before = self.at_work()
        if victim == "horse":
            before = [p for p in before if part_id in (None, p.id)][:1]
            horse = self._horse(before[0].holder) if before else None
            if horse is None:
                return None
        if part_id is not None and part_id not in {part.id for part in before}:
            return None
        at = time.time()
        if victim == "horse":
            assert horse is not None  # looked for above
            horse.kill()
            how, left = "the horse", [horse]
        else:
            how, left = {
                "worker": self._kill_worker,
                "web": self._kill_web,
                "Valkey": self._kill_valkey,
                "Label Studio": self._kill_label_studio,
            }[victim]()
        if victim in ("horse", "worker"):
            _await_end(left, how)  # until then its part may be finished
        after = {} if round_ is None else {p.id: p for p in self.ledger.parts.of_round(round_.id)}
        # Not by us: what outlives its parent is what must not be.
        _await_end(left, how)
        held = tuple(
            Held(f"{round_.kind} {part.stage}", round_.id, part.id, part.attempts)
            for part in before
            if round_ is not None and not _ended_meanwhile(part, after[part.id])
        )
        return Blow(phase, victim, how, at, held)

    def _is_ripe(self, stage: str, victim: str, part: Part) -> bool:
        """Whether a horse that trains has loaded torch: it is to die with its weights half made."""
        if (stage, victim) != ("train fit", "horse"):
            return True
        horse = self._horse(part.holder)
        try:
            return horse is not None and any("libtorch" in m.path for m in horse.memory_maps())
        except psutil.Error:
            return False

    def _horse(self, holder: str) -> psutil.Process | None:
        """The process that does the job of the worker of that name."""
        try:
            for single in psutil.Process(self.stack.worker.pid).children():
                if holder in single.cmdline():
                    return next(iter(single.children()), None)
        except psutil.NoSuchProcess:
            return None
        return None

    # Each says what it killed, and which processes must end for that.

    def _kill_worker(self) -> tuple[str, list[psutil.Process]]:
        family = self.stack.worker.family()
        self.stack.worker.kill()
        return "the workers' parent", family

    def _kill_web(self) -> tuple[str, list[psutil.Process]]:
        parent, *serving = self.stack.web.family()
        self._counts["web"] += 1
        if self._counts["web"] % 2 and serving:
            one = self.random.choice(serving)
            one.kill()
            return "one of the web's processes", [one]
        self.stack.web.kill()
        return "the web's parent", [parent, *serving]

    def _kill_valkey(self) -> tuple[str, list[psutil.Process]]:
        self.stack.valkey.process.kill()
        self._counts["Valkey"] += 1
        if self._counts["Valkey"] % 2:
            shutil.rmtree(self.folder / "valkey" / "appendonlydir")
            return "Valkey, empty afterwards", []
        return "Valkey, its jobs kept", []

    def _kill_label_studio(self) -> tuple[str, list[psutil.Process]]:
        family = self.stack.label_studio.process.family()
        self.stack.label_studio.process.kill()
        return "Label Studio", family

    # How it comes back

    def _recover(self, blows: Sequence[Blow]) -> None:
        """Start again what was killed, and wait until all is at work as before."""
        # Each can start without those after it.
        order = ("Valkey", "web", "worker", "horse", "Label Studio")
        blows = sorted(blows, key=lambda blow: order.index(blow.victim))
        back = [self._start_again(blow.victim) for blow in blows]
        for blow, back_at in zip(blows, back, strict=True):
            moved_at = wait_until(
                lambda blow=blow: self._moved_on(blow),  # type: ignore[misc]  # bound now
                MOVE_LIMIT_S,
                f"the round to go on after {blow}",
                every_s=0.05,
            )
            assert moved_at is not None  # wait_until gives what is truthy
            idle_s = moved_at - max(blow.at, self._worked_until(blow))
            recovered_s = max(idle_s, back_at - blow.at)
            self.blows.append(replace(blow, recovered_s=recovered_s))
            fell_on = ", ".join(sorted({held.stage for held in blow.held})) or "nothing at work"
            print(f"{blow.phase}: {blow.how}, on {fell_on}: {recovered_s:.1f} s", flush=True)

    def _start_again(self, victim: str) -> float:
        """As a service manager would; when it was back, unix seconds."""
        stack = self.stack
        if victim == "worker":
            pid = stack.start_again("worker").pid
            alive = stack.settings.data_dir / "run" / f"worker-{pid}.alive"
            wait_until(alive.exists, NEXT_LIMIT_S, "the workers' parent")
        elif victim == "web":
            if not stack.web.alive():
                stack.start_again("serve")
            wait_until(self._web_answers, NEXT_LIMIT_S, "the web")
        elif victim == "Valkey":
            port = int(stack.valkey.url.split(":")[2].split("/")[0])
            stack.valkey = start_valkey(self.folder / "valkey", port=port, kept=True)
        elif victim == "Label Studio":
            old = stack.label_studio
            port = int(old.url.rsplit(":", 1)[1])
            stack.label_studio = start_label_studio(old.data_dir, port=port)
        return time.time()

    def _web_answers(self) -> bool:
        try:
            return requests.get(f"{self.stack.url}/health", timeout=5).status_code == 200
        except (requests.ConnectionError, requests.Timeout):
            return False

    def _moved_on(self, blow: Blow) -> float | None:
        """When the round that the blow fell upon was at work again, unix seconds.

        The part of a killed worker must be taken again itself; after a blow to a server any part
        will do that was taken since.
        """
        if not blow.held:
            return blow.at
        round_ = self.ledger.rounds.get(blow.held[0].round_id)
        parts = {part.id: part for part in self.ledger.parts.of_round(round_.id)}
        if round_.state != "active":
            return max(float(round_.ended_at), blow.at)
        if blow.victim in ("horse", "worker"):
            rows = [(held, parts[held.part_id]) for held in blow.held]
            if all(row.attempts > held.attempts for held, row in rows):
                return max(float(row.started_at) for _, row in rows)
            return None
        since = [p.started_at for p in parts.values() if (p.started_at or 0.0) > blow.at]
        return float(min(since)) if since else None

    def _worked_until(self, blow: Blow) -> float:
        """When the parts that a blow to a server fell upon were done by who held them."""
        if blow.victim in ("horse", "worker") or not blow.held:
            return blow.at
        parts = {part.id: part for part in self.ledger.parts.of_round(blow.held[0].round_id)}
        rows = [(held, parts[held.part_id]) for held in blow.held]
        done = [r.ended_at for h, r in rows if r.ended_at and r.attempts == h.attempts]
        return float(max(done, default=blow.at))

    # What is left

    def orphans(self) -> list[str]:
        """Processes of this system that nobody whom we started is an ancestor of."""
        stack = self.stack
        ours = {
            process.pid
            for root in (stack.web, stack.worker, stack.valkey.process, stack.label_studio.process)
            for process in root.family()
        }
        return [
            f"{process.pid} {' '.join(process.cmdline())}"
            for process in _processes_of(self.folder)
            if process.pid not in ours
        ]

    def jobs_in_redis(self) -> list[str]:
        """Jobs that wait, or that Redis believes to be running."""
        with redis.Redis.from_url(self.stack.valkey.url) as client:
            waiting = [
                *client.lrange("rq:queue:committee", 0, -1),
                *client.lrange("rq:queue:committee:intermediate", 0, -1),
                *client.zrange("rq:wip:committee", 0, -1),
            ]
            # A failed one is kept for a minute, for whoever asks why.
            undying = [key for key in client.scan_iter("rq:job:*") if client.ttl(key) < 0]
        return [name.decode() for name in (*waiting, *undying)]

    # Figures

    def hits(self) -> Counter[tuple[str, str]]:
        """(stage, victim) to how many blows fell on it while it was at work."""
        return Counter(
            (stage, blow.victim)
            for blow in self.blows
            for stage in {held.stage for held in blow.held}
        )

    def report(self, annotator: Annotator) -> str:
        """The run in figures, as text."""
        hits = self.hits()
        stages = [*FIRST_ORDER, *TRAINING]
        stages += sorted({stage for stage, _ in hits} - set(stages))
        lines = [f"{'kills of, at':16}" + "".join(f"{victim:>14}" for victim in VICTIMS)]
        lines += [
            f"{stage:16}" + "".join(f"{hits[stage, victim]:14d}" for victim in VICTIMS)
            for stage in stages
        ]
        idle = Counter(blow.victim for blow in self.blows if not blow.held)
        lines.append(f"{'between rounds':16}" + "".join(f"{idle[v]:14d}" for v in VICTIMS))
        lines += ["", f"{'recovered, s':28}{'kills':>6}{'median':>8}{'max':>8}"]
        for how in sorted({blow.how for blow in self.blows}):
            took = [blow.recovered_s for blow in self.blows if blow.how == how and blow.held]
            if took:
                lines.append(
                    f"{how:28}{len(took):6d}{statistics.median(took):8.1f}{max(took):8.1f}"
                )
        rounds = Counter(f"{row.kind} {row.state}" for row in self.rounds())
        lines += [
            "",
            "rounds: " + ", ".join(f"{count} {name}" for name, count in sorted(rounds.items())),
            f"labels submitted: {annotator.submitted}, {annotator.with_prediction} of them on a "
            f"pre-annotation; calls repeated because Label Studio was down: {annotator.repeated}; "
            f"refused: {len(annotator.refused)}",
        ]
        return "\n".join(lines)

    def rounds(self) -> Iterator[Round]:
        """All of the project's, oldest first."""
        last = self.ledger.rounds.last(self.project.row_id)
        for round_id in range(1, (0 if last is None else last.id) + 1):
            yield self.ledger.rounds.get(round_id)


def start_chaos(
    folder: Path, template: Path, *, images: int, seed: int, engine: str, **options: Any
) -> Chaos:
    """Everything, on servers of its own, with one project of drawn images."""
    label_studio: LabelStudio = start_label_studio(folder / "label-studio", template=template)
    try:
        stack = start_stack(
            folder, label_studio, worker_process=True, keep_jobs=True, engine=engine
        )
    except BaseException:
        label_studio.stop()
        raise
    project = make_project(stack, "chaos", images, **options)
    return Chaos(folder, stack, project, seed)


def stop_chaos(chaos: Chaos) -> None:
    chaos.stack.stop()
    chaos.stack.label_studio.stop()


def _true_mask(task: Mapping[str, Any]) -> Mask:
    """Known by the name of the file that was uploaded."""
    found = re.search(r"field-(\d+)\.png", task["data"]["image"])
    assert found is not None, task["data"]
    return draw_field(int(found[1]))[1]


def _ended_meanwhile(before: Part, after: Part) -> bool:
    """Whether the part was finished, by who held it, before the blow fell."""
    ended = after.state in ("done", "dropped")
    return bool(ended and after.attempts == before.attempts)


def _await_end(family: Sequence[psutil.Process], what: str) -> None:
    """Wait for processes to end; one that waits, dead, for whoever adopted it has ended."""

    def ended() -> bool:
        return not [process for process in family if _lives(process)]

    wait_until(ended, GONE_LIMIT_S, f"the end of {what}", every_s=0.02)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _processes_of(folder: Path) -> Iterator[psutil.Process]:
    """Living processes that were started with ``folder`` in their environment or arguments."""
    mark = str(folder)
    for process in psutil.process_iter():
        try:
            if process.pid == psutil.Process().pid or not _lives(process):
                continue
            given = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(mark in text for text in given):
            yield process
