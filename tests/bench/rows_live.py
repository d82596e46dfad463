"""What the loop costs: webhooks without Redis, and publishing beside the bare POST."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import requests

from acquisition.aggregate import AGGREGATES
from acquisition.uncertainty import MEASURES
from backend.label_studio import brush
from backend.label_studio.control import control_of, id_of
from backend.label_studio.webhook_secret import name_of, webhook_header, webhook_key
from backend.ledger import Outcome, Part, upgrade
from backend.rounds.stages.publish import publish
from backend.rounds.stages.shards import SHARD_TASKS, Scored, halved, write_shard
from backend.settings import load_settings
from backend.workplace import Workplace
from tests.bench.harness import Measured, row, spread
from tests.bench.rows_brush import blob_mask
from tests.live.harness.rows import import_tasks
from tests.live.harness.servers import LabelStudio, free_port, start_label_studio
from tests.live.harness.stack import Stack, TinyProject, make_project, start_stack

SIDE_PX = 512
FEATURES = 432  # what a member on the pretrained encoder gives


@dataclass(frozen=True)
class Senders:
    """Processes that send webhooks, each over a new connection as Label Studio does.

    Attributes:
        pause_s: between an answer and the next request. Some 350 events a second in all, far
            beyond what annotators make; without a pause the row would measure how senders and web
            queue for two cores.
    """

    senders: int = 20
    requests: int = 100
    pause_s: float = 0.05


@dataclass(frozen=True)
class Publishing:
    """A publication of so many tasks, with so many different masks, that is made so often."""

    tasks: int = 10_000
    masks: int = 50
    repeats: int = 3


ARMS = tuple(f"{measure}/{aggregate}" for measure in MEASURES for aggregate in AGGREGATES)

BRUSH = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="Cell"/></BrushLabels></View>"""


@contextmanager
def own_label_studio() -> Iterator[LabelStudio]:
    with TemporaryDirectory(prefix="bench-") as folder:
        server = start_label_studio(Path(folder) / "label-studio")
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def label_studio(sizes: object) -> Iterator[LabelStudio]:
    # By its name in this module, which the smoke run replaces by the tests' own server.
    with own_label_studio() as server:
        yield server


def brush_region(seed: int) -> dict[str, Any]:
    mask = blob_mask(SIDE_PX, seed)
    return {
        "id": f"bench{seed}",
        "from_name": "tag",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": SIDE_PX,
        "original_height": SIDE_PX,
        "image_rotation": 0,
        "score": 0.9,
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": ["Cell"]},
    }


@row(
    "nothing-lost",
    "webhook_p99_no_redis",
    against=f"limit; {Senders.senders} concurrent senders, Redis away",
    unit="ms",
    goal=1.0,
    sizes=Senders(),
    small=Senders(senders=2, requests=3),
    setting=label_studio,
)
def webhook_p99_no_redis(sizes: Senders, server: LabelStudio) -> Measured:
    with TemporaryDirectory(prefix="bench-") as folder:
        stack = start_stack(Path(folder) / "stack", server, worker_process=True, network="shared")
        try:
            project = make_project(stack, "bench no redis", 1)
            stack.valkey.stop()
            stack.wait(
                lambda: "missed a tick" in stack.worker.tail() or None, "the clock to notice"
            )
            return webhooks(sizes, stack, project, Path(folder))
        finally:
            stack.stop()


def webhooks(sizes: Senders, stack: Stack, project: TinyProject, folder: Path) -> Measured:
    """The p99 of all senders' webhooks, each of which is in the ledger afterwards."""
    before = len(stack.work.ledger.events.pending(project.row_id))
    waits = send_at_once(sizes, stack, webhook_request(stack, project), folder)
    events = len(stack.work.ledger.events.pending(project.row_id)) - before
    if events != sizes.senders * sizes.requests:
        raise RuntimeError(f"{events} of {sizes.senders * sizes.requests} events are kept")
    waits_ms = [[1e3 * wait for wait in of_one] for of_one in waits]
    each = [p99(of_one) for of_one in waits_ms]
    return Measured(p99([wait for of_one in waits_ms for wait in of_one]), 50.0, spread(each))


def webhook_request(stack: Stack, project: TinyProject) -> bytes:
    """What Label Studio sends for a submitted annotation with one brush mask."""
    settings = stack.work.studio.project(project.id)
    now = datetime.now(UTC).isoformat()
    result = [brush_region(0)]
    body = {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": 1, "result": result, "was_cancelled": False, "created_at": now},
        "task": {"id": project.tasks[0], "data": {"image": "/data/upload/1/field.png"}},
        "project": {
            "id": settings.id,
            "created_at": datetime.fromtimestamp(settings.created, UTC).isoformat(),
            "label_config": settings.label_config,
        },
    }
    sent = orjson.dumps(body)
    secret = name_of(stack.work.ledger.projects.get(project.row_id).connection)
    assert secret is not None  # of a connected project
    head = (
        f"POST /webhook HTTP/1.1\r\nHost: {urlsplit(stack.url).netloc}\r\n"
        f"Authorization: {webhook_header(webhook_key(stack.settings), secret)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    return head.encode() + sent


def send_at_once(sizes: Senders, stack: Stack, request: bytes, folder: Path) -> list[list[float]]:
    """Seconds of each request, by sender."""
    address = urlsplit(stack.url)
    request_file = folder / "request"
    request_file.write_bytes(request)
    command = [
        *(sys.executable, str(Path(__file__).with_name("sender.py"))),
        *(str(address.hostname), str(address.port), str(sizes.requests), str(sizes.pause_s)),
        str(request_file),
    ]
    with ExitStack() as running:
        senders = [
            running.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(sizes.senders)
        ]
        for sender in senders:
            assert sender.stdout is not None
            sender.stdout.readline()
        for sender in senders:
            assert sender.stdin is not None
            sender.stdin.write("go\n")
            sender.stdin.flush()
        answers = [json.loads(sender.communicate(timeout=120)[0]) for sender in senders]
    refused = [status for of_one in answers for status, _ in of_one if status != 201]
    if refused:
        raise RuntimeError(f"{len(refused)} webhooks were answered with {sorted(set(refused))}")
    return [[wait_s for _, wait_s in of_one] for of_one in answers]


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


@row(
    "live-loop",
    "publish_10000",
    against="1.2 x the bare POST of the same body",
    unit="s",
    goal=1.0,
    sizes=Publishing(),
    small=Publishing(tasks=70, masks=2, repeats=1),
    setting=label_studio,
)
def publish_10000(sizes: Publishing, server: LabelStudio) -> Measured:
    """The whole stage publish: shards to rank, ledger, POST, comparison, order and view."""
    with TemporaryDirectory(prefix="bench-") as folder:
        work = _workplace(sizes, Path(folder), server)
        try:
            publisher = _Publisher(work, sizes)
            ours: list[float] = []
            bare: list[float] = []
            # In turns, the order within a pair alternating: every version makes the database
            # larger for the next.
            for number in range(sizes.repeats):
                turns = [(ours, publisher.publish), (bare, publisher.post_bare)]
                for samples, take in turns if number % 2 == 0 else reversed(turns):
                    samples.append(take(number))
        finally:
            work.close()
            work.studio.close()
    return Measured(
        statistics.median(ours), 1.2 * statistics.median(bare), max(spread(ours), spread(bare))
    )


def _workplace(sizes: Publishing, folder: Path, server: LabelStudio) -> Workplace:
    """Ours without web and worker: the stage runs here."""
    settings = load_settings(
        _env_file=None,
        data_dir=folder,
        backend_url=f"http://127.0.0.1:{free_port()}",
        label_studio_url=server.url,
        label_studio_api_key=server.api_key,
        redis_url=f"redis://127.0.0.1:{free_port()}/0",
        ledger_url=f"sqlite:///{folder / 'ledger.sqlite3'}",
        registry_url=str(folder / "registry"),
        basic_auth_user="committee",
        basic_auth_pass="throwaway-3",
        queue_length=sizes.tasks,
        candidates=sizes.tasks,
    )
    upgrade(settings.ledger_url)
    return Workplace(settings)


class _Publisher:
    """A project of tasks without images, whose scoring is made up: drawn masks, random scores."""

    def __init__(self, work: Workplace, sizes: Publishing) -> None:
        self._work = work
        self._results = [[brush_region(seed)] for seed in range(sizes.masks)]
        made = control_of(work.studio).projects.create(title="bench publish", label_config=BRUSH)
        created = work.studio.project(id_of(made))
        images = [{"image": f"/data/none/{number}.png"} for number in range(sizes.tasks)]
        self._task_ids = import_tasks(work.studio, created.id, images)
        self._project = work.ledger.projects.ensure(
            work.server, created.id, created.created, label_config=BRUSH, extra_params={}
        )

    def publish(self, number: int) -> float:
        """Seconds of the stage."""
        ledger, project = self._work.ledger, self._project
        opened = ledger.rounds.start(project.id, "rank", "bench", "choose", {})
        assert opened is not None
        ledger.versions.record(
            project.id,
            1,
            opened.id,
            state="promoted",
            reason="made up",
            members=5,
            classes=("background", "Cell"),
            metrics={},
        )
        [chosen] = ledger.parts.of_round(opened.id)
        tasks = len(self._task_ids)
        shards = [self._task_ids[i : i + SHARD_TASKS] for i in range(0, tasks, SHARD_TASKS)]
        payloads = [{"version": 1, "tasks": [[task, ""] for task in shard]} for shard in shards]
        self._finish(chosen, {"pool": tasks, "unlabelled": tasks}, "score", payloads)
        generator = np.random.default_rng(number)
        for part in ledger.parts.of_round(opened.id, "score"):
            scored = {
                task_id: self._scored(task_id, generator) for task_id, _ in part.payload["tasks"]
            }
            file = write_shard(self._work, project.slug, opened.id, part.payload, scored)
            result = {"file": file, "scored": len(scored), "refused": 0}
            self._finish(part, result, "publish", [{}])
        [part] = ledger.parts.of_round(opened.id, "publish")
        opened = ledger.rounds.get(opened.id)

        start = time.perf_counter()
        outcome = publish(self._work, opened, part.payload, lambda progress: None)
        taken_s = time.perf_counter() - start

        if outcome.result["published"] != tasks or outcome.problems:
            raise RuntimeError(f"the publication is not whole: {outcome}")
        self._finish(part, outcome.result, None, [])
        return taken_s

    def _scored(self, task_id: int, generator: np.random.Generator) -> Scored:
        return Scored(
            arms=dict.fromkeys(ARMS, generator.random()),
            features=halved(generator.normal(size=FEATURES).astype(np.float32)),
            class_scores=generator.random(2, np.float32),
            result=orjson.dumps(self._results[task_id % len(self._results)]),
        )

    def _finish(
        self,
        part: Part,
        result: dict[str, Any],
        following: str | None,
        payloads: list[dict[str, Any]],
    ) -> None:
        taken = self._work.ledger.parts.take(part.id, "bench")
        assert taken is not None
        outcome = Outcome(result=result, next_payloads=payloads)
        self._work.ledger.parts.finish(taken, outcome, next_stage=following)

    def post_bare(self, number: int) -> float:
        """Seconds of the POST alone, its body made before."""
        tasks = len(self._task_ids)
        body = orjson.dumps(
            [
                {
                    "task": task_id,
                    "result": self._results[task_id % len(self._results)],
                    "score": (place + 0.5) / tasks,
                    "model_version": f"bare-v1.{number}",
                }
                for place, task_id in enumerate(self._task_ids)
            ]
        )
        url, api_key = self._work.settings.label_studio()
        start = time.perf_counter()
        answer = requests.post(
            f"{url}/api/projects/{self._project.studio_id}/import/predictions",
            body,
            headers={"Authorization": f"Token {api_key}", "Content-Type": "application/json"},
            timeout=900,
        )
        taken_s = time.perf_counter() - start
        if answer.status_code != 201 or answer.json()["created"] != tasks:
            raise RuntimeError(f"the bare POST was not stored whole: {answer.text[:300]}")
        return taken_s
