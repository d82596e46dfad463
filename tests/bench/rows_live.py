"""What the loop costs: webhooks while a round trains, and publishing beside the bare POST."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from backend.ledger.ledger import Row, upgrade
from backend.rounds.stages.publish import publish
from backend.rounds.stages.shards import SHARD_TASKS, packed, write_shard
from backend.settings import load_settings
from backend.workplace import Workplace
from tests.bench.harness import Measured, row, spread
from tests.bench.rows_brush import blob_mask
from tests.live.servers import LabelStudio, free_port, start_label_studio
from tests.live.stack import Stack, TinyProject, make_project, start_stack

SENDERS = 20
REQUESTS_EACH = 100
# Some 350 events a second in all, far beyond what annotators make; without a pause the row would
# measure how senders and web queue for two cores.
PAUSE_S = 0.05
TASKS = 10_000
SIDE_PX = 512
LABELS = 20
MASKS = 50
FEATURES = 432  # what a member on the pretrained encoder gives

ARMS = tuple(f"{measure}/{aggregate}" for measure in MEASURES for aggregate in AGGREGATES)

BRUSH = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="Cell"/></BrushLabels></View>"""


@contextmanager
def label_studio() -> Iterator[LabelStudio]:
    with TemporaryDirectory(prefix="bench-") as folder:
        server = start_label_studio(Path(folder) / "label-studio")
        try:
            yield server
        finally:
            server.stop()


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


# webhook_p99


@row(
    "live-loop",
    "webhook_p99",
    against=f"limit; {SENDERS} concurrent senders while a round trains",
    unit="ms",
    goal=1.0,
    setting=label_studio,
)
def webhook_p99(server: LabelStudio) -> Measured:
    with TemporaryDirectory(prefix="bench-") as folder:
        stack = start_stack(Path(folder) / "stack", server)
        try:
            # So many steps that both workers train throughout, with the network that ships.
            project = make_project(
                stack, "bench webhooks", 2 * LABELS, network="lite0", steps=20_000
            )
            project.label(*project.few(LABELS))
            stack.work.ledger.add_event(project.row_id, "RETRAIN")
            stack.wait(lambda: _training(stack, project), "both members to train")
            measured = _webhooks(stack, project, Path(folder))
            if not _training(stack, project):
                raise RuntimeError("the round did not train to the end of the measurement")
        finally:
            stack.stop()
    return measured


@row(
    "nothing-lost",
    "webhook_p99_no_redis",
    against=f"limit; {SENDERS} concurrent senders, Redis away",
    unit="ms",
    goal=1.0,
    setting=label_studio,
)
def webhook_p99_no_redis(server: LabelStudio) -> Measured:
    with TemporaryDirectory(prefix="bench-") as folder:
        stack = start_stack(Path(folder) / "stack", server)
        try:
            project = make_project(stack, "bench no redis", 1)
            stack.valkey.stop()
            stack.wait(
                lambda: "missed a tick" in stack.worker.tail() or None, "the clock to notice"
            )
            return _webhooks(stack, project, Path(folder))
        finally:
            stack.stop()


def _webhooks(stack: Stack, project: TinyProject, folder: Path) -> Measured:
    """The p99 of all senders' webhooks, each of which is in the ledger afterwards."""
    before = len(stack.work.ledger.pending_events(project.row_id))
    waits = send_at_once(stack, webhook_body(stack, project), folder)
    events = len(stack.work.ledger.pending_events(project.row_id)) - before
    if events != SENDERS * REQUESTS_EACH:
        raise RuntimeError(f"{events} of {SENDERS * REQUESTS_EACH} events are kept")
    waits_ms = [[1e3 * wait for wait in of_one] for of_one in waits]
    each = [p99(of_one) for of_one in waits_ms]
    return Measured(p99([wait for of_one in waits_ms for wait in of_one]), 50.0, spread(each))


def _training(stack: Stack, project: TinyProject) -> bool:
    found = stack.last_train(project)
    if found is None or found["stage"] != "fit":
        return False
    parts = stack.work.ledger.parts(found["id"], "fit")
    return all(part["state"] == "leased" and part["progress"] > 0 for part in parts)


def webhook_body(stack: Stack, project: TinyProject) -> bytes:
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
    return orjson.dumps(body)


def send_at_once(stack: Stack, body: bytes, folder: Path) -> list[list[float]]:
    """Seconds of each request, by sender."""
    address = urlsplit(stack.url)
    token = b64encode(":".join(stack.auth).encode()).decode()
    head = (
        f"POST /webhook HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Basic {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request_file = folder / "request"
    request_file.write_bytes(head.encode() + body)
    command = [
        *(sys.executable, str(Path(__file__).with_name("sender.py"))),
        *(str(address.hostname), str(address.port), str(REQUESTS_EACH), str(PAUSE_S)),
        str(request_file),
    ]
    with ExitStack() as running:
        senders = [
            running.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(SENDERS)
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


# publish_10000


@row(
    "live-loop",
    "publish_10000",
    against="1.2 x the bare POST of the same body",
    unit="s",
    goal=1.0,
    setting=label_studio,
)
def publish_10000(server: LabelStudio) -> Measured:
    """The whole stage publish: shards to rank, ledger, POST, comparison, order and view."""
    with TemporaryDirectory(prefix="bench-") as folder:
        work = _workplace(Path(folder), server)
        try:
            project, task_ids = _large_project(work)
            ours: list[float] = []
            bare: list[float] = []
            # In turns, the order within a pair alternating: every version makes the database
            # larger for the next.
            for number in range(3):
                turns = [(ours, _publish), (bare, _post_bare)]
                for samples, take in turns if number % 2 == 0 else reversed(turns):
                    samples.append(take(work, project, task_ids, number))
        finally:
            work.close()
            work.studio.close()
    return Measured(
        statistics.median(ours), 1.2 * statistics.median(bare), max(spread(ours), spread(bare))
    )


def _workplace(folder: Path, server: LabelStudio) -> Workplace:
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
        queue_length=TASKS,
        candidates=TASKS,
    )
    upgrade(settings.ledger_url)
    return Workplace(settings)


def _large_project(work: Workplace) -> tuple[Row, list[int]]:
    created = work.studio.create_project(title="bench publish", label_config=BRUSH)
    images = [{"image": f"/data/none/{number}.png"} for number in range(TASKS)]
    task_ids = work.studio.import_tasks(created.id, images)
    project = work.ledger.ensure_project(
        work.server, created.id, created.created, label_config=BRUSH, extra_params={}
    )
    return project, task_ids


def _publish(work: Workplace, project: Row, task_ids: list[int], number: int) -> float:
    """Seconds of the stage, in a round whose scoring is made up: one measure, drawn masks."""
    opened = work.ledger.start_round(project["id"], "rank", "bench", "choose", {})
    assert opened is not None
    [chosen] = work.ledger.parts(opened["id"])
    shards = [task_ids[i : i + SHARD_TASKS] for i in range(0, TASKS, SHARD_TASKS)]
    payloads = [{"version": 1, "tasks": [[task_id, ""] for task_id in shard]} for shard in shards]
    _finish(work, chosen, {"pool": TASKS, "unlabelled": TASKS}, "score", payloads)
    generator = np.random.default_rng(number)
    results = _results()
    for part in work.ledger.parts(opened["id"], "score"):
        scored = [
            {
                "task": task_id,
                "arms": dict.fromkeys(ARMS, generator.random()),
                "features": packed(generator.normal(size=FEATURES).astype(np.float32)),
                "class_scores": generator.random(3).tolist(),
                "result": results[task_id % MASKS],
            }
            for task_id, _ in part["payload"]["tasks"]
        ]
        file = write_shard(work, project["slug"], opened["id"], part["payload"], scored)
        _finish(work, part, {"file": file, "scored": len(scored), "refused": 0}, "publish", [{}])
    [part] = work.ledger.parts(opened["id"], "publish")
    opened = work.ledger.round(opened["id"])

    start = time.perf_counter()
    outcome = publish(work, opened, part["payload"], lambda progress: None)
    taken_s = time.perf_counter() - start

    if outcome.result["published"] != TASKS or outcome.problems:
        raise RuntimeError(f"the publication is not whole: {outcome}")
    _finish(work, part, outcome.result, None, [])
    return taken_s


def _finish(
    work: Workplace,
    part: Row,
    result: dict[str, Any],
    following: str | None,
    payloads: list[dict[str, Any]],
) -> None:
    taken = work.ledger.take_part(part["id"], "bench")
    assert taken is not None
    work.ledger.finish_part(
        part["id"], taken["token"], result, next_stage=following, next_payloads=payloads
    )


def _post_bare(work: Workplace, project: Row, task_ids: list[int], number: int) -> float:
    """Seconds of the POST alone, its body made before."""
    results = _results()
    body = orjson.dumps(
        [
            {
                "task": task_id,
                "result": results[task_id % MASKS],
                "score": (place + 0.5) / TASKS,
                "model_version": f"bare-v1.{number}",
            }
            for place, task_id in enumerate(task_ids)
        ]
    )
    url, api_key = work.settings.label_studio()
    start = time.perf_counter()
    answer = requests.post(
        f"{url}/api/projects/{project['studio_id']}/import/predictions",
        body,
        headers={"Authorization": f"Token {api_key}", "Content-Type": "application/json"},
        timeout=900,
    )
    taken_s = time.perf_counter() - start
    if answer.status_code != 201 or answer.json()["created"] != TASKS:
        raise RuntimeError(f"the bare POST was not stored whole: {answer.text[:300]}")
    return taken_s


def _results() -> list[list[dict[str, Any]]]:
    return [[brush_region(seed)] for seed in range(MASKS)]
