"""What a laboratory at work waits for while a round trains: 200 webhooks a second for a minute, and
ten annotators who open tasks. Two cores carry all of it, Label Studio and the senders as well."""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import orjson
from PIL import Image

from backend.actions.connect import connect_project
from backend.commands.replay.replay import label_config, strokes
from tests.bench.harness import Measured, row, spread
from tests.bench.rows_live import label_studio, p99, webhook_body
from tests.live.stack import UNKNOWN, Stack, TinyProject, start_stack
from training.datasets.urine_sediment import CLASSES, draw_field

SECONDS = 60.0
WEBHOOKS_PER_S = 200
HEALTH_PER_S = 10
ANNOTATORS = 10
# Nobody corrects a mask in less. Evenly spread, so that no look waits for another one in the web
# that is idle, and whatever waits under load waits for the load.
OPENS_EVERY_S = 15.0
IMAGES = 30
LABELS = 16
SIDE_PX = 1024
STEPS_FIRST, STEPS_LONG = 60, 20_000
WARM_UP_S = 10.0
ROUND_LIMIT_S = 900.0

PREDICT_SLOWER = 1.5
"""The limit of predict's p95: so many times that of the idle web."""


@dataclass(frozen=True)
class Load:
    """What was measured.

    Attributes:
        idle: seconds of each /predict while nothing else was asked and nothing trained.
        waits: seconds of each request under load, by name.
        share: CPU seconds of the senders over wall seconds.
    """

    idle: Sequence[float]
    waits: dict[str, list[float]]
    share: float

    @property
    def note(self) -> str:
        return f"the senders took {self.share:.0%} of one of {os.cpu_count()} cores"


@contextmanager
def under_load() -> Iterator[Load]:
    with label_studio() as server, TemporaryDirectory(prefix="bench-") as folder:
        stack = start_stack(Path(folder) / "stack", server, members=5)
        try:
            yield _measure(stack, Path(folder))
        finally:
            stack.stop()


def _measure(stack: Stack, folder: Path) -> Load:
    project = _project(stack, STEPS_FIRST)
    for task_id in project.tasks[:LABELS]:
        result = strokes(project.masks[task_id], CLASSES, UNKNOWN, None)
        stack.work.studio.annotate(task_id, result)
    stack.work.ledger.add_event(project.row_id, "RETRAIN")
    stack.wait(
        lambda: project.serving() and not stack.work.ledger.active_round(project.row_id),
        "the first version to serve",
        ROUND_LIMIT_S,
    )
    requests = _requests(stack, project, folder)
    # Each of the web's processes loads the version at its first look.
    _send(stack, folder, {"seconds": WARM_UP_S, "streams": [], "visits": _visits(requests, 2.0)})
    idle = _send(stack, folder, {"streams": [], "visits": _visits(requests)})
    connect_project(stack.work, project.id, _options(STEPS_LONG))
    stack.work.ledger.add_event(project.row_id, "RETRAIN")
    stack.wait(lambda: _trains(stack, project), "two members to train", ROUND_LIMIT_S)
    events_before = len(stack.work.ledger.pending_events(project.row_id))
    streams = [
        _stream("webhook", WEBHOOKS_PER_S, requests["webhook"]),
        _stream("health", HEALTH_PER_S, requests["health"]),
    ]
    busy = _send(stack, folder, {"streams": streams, "visits": _visits(requests)})
    if not _trains(stack, project):
        raise RuntimeError("the round did not train to the end of the measurement")
    events = len(stack.work.ledger.pending_events(project.row_id)) - events_before
    if events != WEBHOOKS_PER_S * SECONDS:
        raise RuntimeError(f"{events} of {WEBHOOKS_PER_S * SECONDS:.0f} events are kept")
    return Load(idle["waits"]["predict"], busy["waits"], busy["cpu_s"] / busy["wall_s"])


def _trains(stack: Stack, project: TinyProject) -> bool:
    found = stack.last_train(project)
    if found is None or found["state"] != "active":
        return False
    parts = stack.work.ledger.parts(found["id"], "fit")
    under_way = [p for p in parts if p["state"] == "leased" and p["progress"] > 0]
    return len(under_way) == stack.settings.workers


def _options(steps: int) -> dict[str, Any]:
    """What ships, but for the steps; no audit, so that every label teaches."""
    return {"steps": steps, "unknown_label": UNKNOWN, "audit_fraction": 0}


def _project(stack: Stack, steps: int) -> TinyProject:
    studio = stack.work.studio
    created = studio.create_project(title="bench load", label_config=label_config(CLASSES, UNKNOWN))
    fields = [draw_field(seed, size=(SIDE_PX, SIDE_PX)) for seed in range(IMAGES)]
    files = []
    for number, field in enumerate(fields):
        file = io.BytesIO()
        Image.fromarray(field.image).save(file, "PNG")
        files.append((f"field-{number}.png", file.getvalue()))
    tasks = tuple(studio.upload(created.id, files))
    connected = connect_project(stack.work, created.id, _options(steps))
    masks = {task_id: field.mask for task_id, field in zip(tasks, fields, strict=True)}
    return TinyProject(stack, created.id, connected.project["id"], tasks, masks)


def _requests(stack: Stack, project: TinyProject, folder: Path) -> dict[str, list[str]]:
    """Files of whole requests, by what they ask; of ``open`` one list for each unlabelled task."""
    settings = stack.work.studio.project(project.id)
    key = f"{settings.id}.{settings.created}"
    setup = {"project": key, "schema": settings.label_config, "extra_params": _options(STEPS_LONG)}
    files = {
        "webhook": [_file(stack, folder, "POST", "/webhook", webhook_body(stack, project))],
        "health": [_file(stack, folder, "GET", "/health", b"")],
        "setup": [_file(stack, folder, "POST", "/setup", orjson.dumps(setup))],
        "predict": [],
    }
    for task in stack.work.studio.tasks(project.id, ids=project.tasks[LABELS:]):
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
    file = folder / f"request-{len(list(folder.glob('request-*')))}"
    file.write_bytes(head.encode() + body)
    return str(file)


def _stream(name: str, per_s: int, files: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "every_s": 1 / per_s, "file": files[0]}


def _visits(requests: dict[str, list[str]], every_s: float = OPENS_EVERY_S) -> list[dict[str, Any]]:
    """Annotators, evenly spread; each opens a task of their own as Label Studio has us asked."""
    return [
        {
            "name": "predict",
            "first_s": number * every_s / ANNOTATORS,
            "every_s": every_s,
            "files": [
                *requests["health"],
                *requests["setup"],
                requests["predict"][number % len(requests["predict"])],
            ],
        }
        for number in range(ANNOTATORS)
    ]


def _send(stack: Stack, folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    address = urlsplit(stack.url)
    file = folder / "plan.json"
    plan = {"host": address.hostname, "port": address.port, "seconds": SECONDS, **plan}
    file.write_text(json.dumps(plan))
    command = [sys.executable, str(Path(__file__).with_name("load.py")), str(file)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdout is not None
        sender.stdout.readline()
        answer, _ = sender.communicate("go\n", timeout=4 * plan["seconds"] + 120)
    found: dict[str, Any] = json.loads(answer)
    if found["refused"]:
        raise RuntimeError(f"not all were answered well: {found['refused']}")
    return found


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[18]


def _spread_of_tenths(values: Sequence[float]) -> float:
    """How far the p99 of ten successive tenths lie apart."""
    size = len(values) // 10
    return spread([p99(list(values[i * size : (i + 1) * size])) for i in range(10)])


AGAINST = (
    f"{WEBHOOKS_PER_S} webhooks/s for {SECONDS:.0f} s while a round trains and "
    f"{ANNOTATORS} annotators open tasks"
)


@row(
    "nothing-lost",
    "webhook_p99_load",
    against=f"limit; {AGAINST}",
    unit="ms",
    goal=1.0,
    setting=under_load,
)
def webhook_p99_load(load: Load) -> Measured:
    waits_ms = [1e3 * wait for wait in load.waits["webhook"]]
    return Measured(p99(waits_ms), 50.0, _spread_of_tenths(waits_ms), load.note)


@row(
    "nothing-lost",
    "health_p99_load",
    against=f"limit; {AGAINST}",
    unit="ms",
    goal=1.0,
    setting=under_load,
)
def health_p99_load(load: Load) -> Measured:
    waits_ms = [1e3 * wait for wait in load.waits["health"]]
    return Measured(p99(waits_ms), 100.0, _spread_of_tenths(waits_ms), load.note)


@row(
    "nothing-lost",
    "predict_p95_while_training",
    against=f"{PREDICT_SLOWER} x idle, {SIDE_PX} px; {AGAINST}",
    unit="s",
    goal=1.0,
    setting=under_load,
)
def predict_p95_while_training(load: Load) -> Measured:
    waits = load.waits["predict"]
    return Measured(p95(waits), PREDICT_SLOWER * p95(load.idle), spread(waits), load.note)
