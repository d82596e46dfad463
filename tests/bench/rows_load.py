"""What a laboratory at work waits for while a round trains: 200 webhooks a second for a minute, and
ten annotators who open tasks. Two cores carry all of it, Label Studio and the senders as well."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import orjson
from PIL import Image

from backend.actions.connect import connect_project
from backend.commands.replay.strokes import label_config
from backend.jobs.niceness import yield_to_web
from backend.label_studio.control import control_of
from backend.settings import Settings
from tests.bench.harness import Measured, row, spread
from tests.bench.rows_live import Senders, label_studio, p99, webhook_request, webhooks
from tests.live.harness.stack import (
    NETWORK,
    SIDE_PX,
    UNKNOWN,
    Stack,
    TinyProject,
    make_project,
    start_stack,
)
from training.config import TrainConfig
from training.datasets.urine_sediment import CLASSES, draw_field
from training.examples import make_example
from training.fitting.fit import fit_member

ROUND_LIMIT_S = 900.0
WEBHOOK_LIMIT_MS, HEALTH_LIMIT_MS = 50.0, 100.0

PREDICT_SLOWER = 1.5
"""The limit of predict's p95: so many times that of the idle web."""


@dataclass(frozen=True)
class Sizes:
    """A laboratory: its images, its committee, and what is sent for so many seconds.

    Attributes:
        opens_every_s: how often an annotator opens a task; nobody corrects a mask in less.
            Annotators are evenly spread, so that no prediction waits for another one in the idle
            web, and whatever waits under load waits for the load.
        steps: of the first round, and of the one that must outlast the measurement.
        tiny: the live tests' discs and network instead of drawn urine and ours, which learns
            nothing in a smoke run's seconds, and torch, which compiles nothing.
    """

    seconds: float = 60.0
    warm_up_s: float = 10.0
    webhooks_per_s: int = 200
    health_per_s: int = 10
    annotators: int = 10
    opens_every_s: float = 15.0
    images: int = 30
    labels: int = 16
    side_px: int = 1024
    members: int = 5
    steps: tuple[int, int] = (60, 20_000)
    senders: Senders = field(default_factory=Senders)
    tiny: bool = False


FULL = Sizes()
SMALL = Sizes(
    seconds=1.0,
    warm_up_s=0.5,
    webhooks_per_s=20,
    health_per_s=20,
    annotators=2,
    opens_every_s=0.5,
    images=8,
    labels=4,
    side_px=SIDE_PX,
    members=2,
    steps=(40, 20_000),
    senders=Senders(senders=2, requests=3),
    tiny=True,
)


@dataclass(frozen=True)
class Load:
    """What was measured.

    Attributes:
        waits: seconds of each request under load, by name.
        share: CPU seconds of the senders over wall seconds.
    """

    waits: dict[str, list[float]]
    share: float

    @property
    def note(self) -> str:
        return f"the senders took {self.share:.0%} of one of {os.cpu_count()} cores"


class Laboratory:
    """A project whose first version serves, while a second round trains on all workers."""

    def __init__(self, stack: Stack, folder: Path, sizes: Sizes) -> None:
        self.stack, self.folder, self._sizes = stack, folder, sizes
        self.project = _tiny_project(stack, sizes) if sizes.tiny else _project(stack, sizes)
        labelled = self.project.few(sizes.labels)
        self.project.label(*labelled)
        row_id = self.project.row_id
        stack.work.ledger.events.add(row_id, "RETRAIN")
        stack.wait(self._serves, "the first version to serve", ROUND_LIMIT_S)
        self._requests = _requests(stack, self.project, folder, sizes, labelled)
        # Each of the web's processes loads the version at its first prediction.
        self._send([], sizes.warm_up_s, opens_every_s=2.0)
        self.idle_s: Sequence[float] = self._send([], sizes.seconds)["waits"]["predict"]
        connect_project(stack.work, self.project.id, _options(sizes, 1))
        stack.work.ledger.events.add(row_id, "RETRAIN")
        stack.wait(self._trains, "all workers to train", ROUND_LIMIT_S)

    @contextmanager
    def training(self, events: float) -> Iterator[None]:
        """For the while that something is measured.

        Raises:
            RuntimeError: the round ended before, or of the ``events`` sent some were lost.
        """
        ledger, row_id = self.stack.work.ledger, self.project.row_id
        before = len(ledger.events.pending(row_id))
        yield
        if not self._trains():
            raise RuntimeError("the round did not train to the end of the measurement")
        kept = len(ledger.events.pending(row_id)) - before
        if kept != events:
            raise RuntimeError(f"{kept} of {events:.0f} events are kept")

    @cached_property
    def load(self) -> Load:
        sizes = self._sizes
        # Written now: the connection that was made last gave the webhook its secret.
        webhook = _write(self.folder, webhook_request(self.stack, self.project))
        streams = [
            _stream("webhook", sizes.webhooks_per_s, [webhook]),
            _stream("health", sizes.health_per_s, self._requests["health"]),
        ]
        with self.training(events=sizes.webhooks_per_s * sizes.seconds):
            busy = self._send(streams, sizes.seconds)
        return Load(busy["waits"], busy["cpu_s"] / busy["wall_s"])

    def _serves(self) -> bool:
        found = self.stack.last_train(self.project)
        if found is None or found.state == "active":
            return False
        if self.project.serving() is None:
            raise RuntimeError(f"the first round brought no version: {found.error}")
        return True

    def _trains(self) -> bool:
        found = self.stack.last_train(self.project)
        if found is None or found.state != "active":
            return False
        parts = self.stack.work.ledger.parts.of_round(found.id, "fit")
        under_way = [p for p in parts if p.state == "leased" and p.progress > 0]
        return len(under_way) == self.stack.settings.workers

    def _send(
        self, streams: list[dict[str, Any]], seconds: float, opens_every_s: float | None = None
    ) -> dict[str, Any]:
        """What load.py found of these streams, with the annotators beside them."""
        address = urlsplit(self.stack.url)
        file = self.folder / "plan.json"
        plan = {
            "host": address.hostname,
            "port": address.port,
            "seconds": seconds,
            "streams": streams,
            "visits": self._visits(opens_every_s or self._sizes.opens_every_s),
        }
        file.write_text(json.dumps(plan))
        command = [sys.executable, str(Path(__file__).with_name("load.py")), str(file)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as sender:
            assert sender.stdout is not None
            sender.stdout.readline()
            answer, _ = sender.communicate("go\n", timeout=4 * seconds + 120)
        found: dict[str, Any] = json.loads(answer)
        if found["refused"]:
            raise RuntimeError(f"not all were answered well: {found['refused']}")
        return found

    def _visits(self, every_s: float) -> list[dict[str, Any]]:
        """Annotators, evenly spread; each opens a task of their own by Label Studio's calls."""
        requests, annotators = self._requests, self._sizes.annotators
        return [
            {
                "name": "predict",
                "first_s": number * every_s / annotators,
                "every_s": every_s,
                "files": [
                    *requests["health"],
                    *requests["setup"],
                    requests["predict"][number % len(requests["predict"])],
                ],
            }
            for number in range(annotators)
        ]


@contextmanager
def laboratory(sizes: Sizes) -> Iterator[Laboratory]:
    with label_studio(sizes) as server, TemporaryDirectory(prefix="bench-") as folder:
        stack = start_stack(
            Path(folder) / "stack",
            server,
            worker_process=True,
            network=NETWORK if sizes.tiny else "shared",
            engine="torch" if sizes.tiny else "auto",
            members=sizes.members,
        )
        try:
            yield Laboratory(stack, Path(folder), sizes)
        finally:
            stack.stop()


def _options(sizes: Sizes, round_: int) -> dict[str, Any]:
    """What ships, but for the steps; no audit, so that every label teaches."""
    return {"steps": sizes.steps[round_], "unknown_label": UNKNOWN, "audit_fraction": 0}


def _tiny_project(stack: Stack, sizes: Sizes) -> TinyProject:
    return make_project(stack, "bench load", sizes.images, **_options(sizes, 0))


def _project(stack: Stack, sizes: Sizes) -> TinyProject:
    studio = stack.work.studio
    created = control_of(studio).projects.create(
        title="bench load", label_config=label_config(CLASSES, UNKNOWN)
    )
    size = (sizes.side_px, sizes.side_px)
    drawn = [draw_field(seed, size=size) for seed in range(sizes.images)]
    files = []
    for number, one in enumerate(drawn):
        file = io.BytesIO()
        Image.fromarray(one.image).save(file, "PNG")
        files.append((f"field-{number}.png", file.getvalue()))
    tasks = tuple(studio.upload(created.id, files))
    connected = connect_project(stack.work, created.id, _options(sizes, 0))
    masks = {task_id: one.mask for task_id, one in zip(tasks, drawn, strict=True)}
    return TinyProject(
        stack, created.id, connected.project.id, tasks, masks, CLASSES, sizes.members
    )


def _requests(
    stack: Stack, project: TinyProject, folder: Path, sizes: Sizes, labelled: Sequence[int]
) -> dict[str, list[str]]:
    """Files of whole requests, by what they ask; of ``open`` one list for each unlabelled task."""
    settings = stack.work.studio.project(project.id)
    key = f"{settings.id}.{settings.created}"
    setup = {"project": key, "schema": settings.label_config, "extra_params": _options(sizes, 1)}
    files = {
        "health": [_file(stack, folder, "GET", "/health", b"")],
        "setup": [_file(stack, folder, "POST", "/setup", orjson.dumps(setup))],
        "predict": [],
    }
    unlabelled = [task_id for task_id in project.tasks if task_id not in labelled]
    for task in stack.work.studio.tasks(project.id, ids=unlabelled):
        body = {
            "tasks": [{"id": task.id, "data": task.data}],
            "project": key,
            "label_config": settings.label_config,
            "params": {"login": None, "password": None, "context": None},
        }
        files["predict"].append(_file(stack, folder, "POST", "/predict", orjson.dumps(body)))
    return files


def _file(stack: Stack, folder: Path, method: str, path: str, body: bytes) -> str:
    address = urlsplit(stack.url)
    token = b64encode(":".join(stack.auth).encode()).decode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Basic {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return _write(folder, head.encode() + body)


def _write(folder: Path, request: bytes) -> str:
    file = folder / f"request-{len(list(folder.glob('request-*')))}"
    file.write_bytes(request)
    return str(file)


def _stream(name: str, per_s: int, files: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "every_s": 1 / per_s, "file": files[0]}


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[18]


def _spread_of_tenths(values: Sequence[float]) -> float:
    """How far the p99 of ten successive tenths lie apart."""
    size = len(values) // 10
    return spread([p99(list(values[i * size : (i + 1) * size])) for i in range(10)])


AGAINST = (
    f"{FULL.webhooks_per_s} webhooks/s for {FULL.seconds:.0f} s while a round trains and "
    f"{FULL.annotators} annotators open tasks"
)


@row(
    "live-loop",
    "webhook_p99",
    against=f"limit; {FULL.senders.senders} concurrent senders while a round trains",
    unit="ms",
    goal=1.0,
    sizes=FULL,
    small=SMALL,
    setting=laboratory,
)
def webhook_p99(sizes: Sizes, given: Laboratory) -> Measured:
    with given.training(events=sizes.senders.senders * sizes.senders.requests):
        return webhooks(sizes.senders, given.stack, given.project, given.folder)


@row(
    "nothing-lost",
    "webhook_p99_load",
    against=f"limit; {AGAINST}",
    unit="ms",
    goal=1.0,
    sizes=FULL,
    small=SMALL,
    setting=laboratory,
)
def webhook_p99_load(sizes: Sizes, given: Laboratory) -> Measured:
    waits_ms = [1e3 * wait for wait in given.load.waits["webhook"]]
    return Measured(p99(waits_ms), WEBHOOK_LIMIT_MS, _spread_of_tenths(waits_ms), given.load.note)


@row(
    "nothing-lost",
    "health_p99_load",
    against=f"limit; {AGAINST}",
    unit="ms",
    goal=1.0,
    sizes=FULL,
    small=SMALL,
    setting=laboratory,
)
def health_p99_load(sizes: Sizes, given: Laboratory) -> Measured:
    waits_ms = [1e3 * wait for wait in given.load.waits["health"]]
    return Measured(p99(waits_ms), HEALTH_LIMIT_MS, _spread_of_tenths(waits_ms), given.load.note)


@row(
    "nothing-lost",
    "predict_p95_while_training",
    against=f"{PREDICT_SLOWER} x idle, {FULL.side_px} px; {AGAINST}",
    unit="s",
    goal=1.0,
    sizes=FULL,
    small=SMALL,
    setting=laboratory,
)
def predict_p95_while_training(sizes: Sizes, given: Laboratory) -> Measured:
    waits, limit = given.load.waits["predict"], PREDICT_SLOWER * p95(given.idle_s)
    return Measured(p95(waits), limit, spread(waits), given.load.note)


FIT_SLOWER = 2.5
"""The limit of a fit beside a busy program for each core: so many times its quiet time."""


@dataclass(frozen=True)
class Fit:
    """One member of the demo's committee, and the programs that run beside it."""

    side_px: int = 512
    steps: int = 60
    programs: int = os.cpu_count() or 1
    repeats: int = 5


def fit_as_a_job(fit: Fit) -> float:
    """Seconds of the fit, in a process that yields as a job does."""
    size = (fit.side_px, fit.side_px)
    drawn = [draw_field(seed, size=size) for seed in range(6)]
    examples = [
        make_example(f"field-{seed}", one.image, one.mask, 1024) for seed, one in enumerate(drawn)
    ]
    config = TrainConfig(CLASSES, members=1, steps=fit.steps, batch=4, threads=1)
    began = time.perf_counter()
    fit_member(examples, config, 0)
    return time.perf_counter() - began


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Programs of somebody else's, each in a session of its own, that want a whole core."""
    command = [sys.executable, "-c", "while True: pass"]
    with ExitStack() as programs:
        for _ in range(count):
            program = subprocess.Popen(command, start_new_session=True)
            programs.callback(program.wait)
            programs.callback(program.kill)
        yield


@row(
    "nothing-lost",
    "fit_beside_busy",
    against=f"{FIT_SLOWER} x its quiet time; one member beside a busy program for each core",
    unit="s",
    goal=1.0,
    sizes=Fit(),
    small=Fit(side_px=64, steps=1, programs=1, repeats=1),
)
def fit_beside_busy(fit: Fit) -> Measured:
    quiet, busy = [], []
    nice = Settings.model_fields["job_nice"].default
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=yield_to_web, initargs=(nice,)) as job:
        job.submit(fit_as_a_job, replace(fit, steps=1)).result()
        for _ in range(fit.repeats):
            quiet.append(job.submit(fit_as_a_job, fit).result())
            with busy_programs(fit.programs):
                busy.append(job.submit(fit_as_a_job, fit).result())
    limit = FIT_SLOWER * statistics.median(quiet)
    return Measured(statistics.median(busy), limit, max(spread(quiet), spread(busy)))
