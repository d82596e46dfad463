"""What a second worker brings: real workers, a real Valkey, images over HTTP."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from backend.ledger import Outcome, Project, Round
from backend.ledger.shapes import Payload, RoundKind, Stage
from backend.redis_queue import registered_workers
from backend.rounds.stages.fit import fit
from backend.rounds.stages.shards import SHARD_TASKS
from backend.workplace import Workplace
from tests.backend.small_studio import CREATED_S, LABEL_CONFIG, small_studio
from tests.backend.workplaces import TOKEN, open_workplace
from tests.bench.harness import Measured, row, spread
from tests.limits import wait_until
from tests.live.harness.servers import ROOT, Process, start_valkey
from training.config import TrainConfig
from training.datasets.urine_sediment import draw_field
from training.examples import make_example
from training.images import encode_png
from training.networks.build import skeleton

CLASSES = ("background", "dark", "bright")
START_LIMIT_S = 90.0
STAGE_LIMIT_S = 1800.0


@dataclass(frozen=True)
class Scoring:
    """So many candidates of one size, scored by a committee with random weights."""

    candidates: int = 200
    side_px: int = 512
    members: int = 5
    network: str = "shared"
    repeats: int = 2


@dataclass(frozen=True)
class Fitting:
    """A committee that is trained on so many images, each member for so many steps."""

    members: int = 5
    images: int = 10
    side_px: int = 512
    steps: int = 100
    crop_px: int = 128
    network: str = "shared"


@dataclass(frozen=True)
class Site:
    """A project whose rounds workers do; its Label Studio does little but hand out images."""

    work: Workplace
    project: Project
    environment: Mapping[str, str]


@contextmanager
def site(image: bytes, tasks: int) -> Iterator[Site]:
    with TemporaryDirectory(prefix="bench-") as folder, small_studio(tasks, image=image) as studio:
        valkey = start_valkey(Path(folder) / "valkey")
        environment = {
            "DATA_DIR": str(Path(folder) / "data"),
            "LABEL_STUDIO_URL": studio.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "REDIS_URL": valkey.url,
            "OMP_NUM_THREADS": "1",
        }
        (Path(folder) / "data").mkdir()
        given = {"label_studio_url": studio.url, "redis_url": valkey.url}
        try:
            with open_workplace(Path(folder) / "data", **given) as work:
                project = work.ledger.projects.ensure(
                    work.server, 1, CREATED_S, title="bench", label_config=LABEL_CONFIG
                )
                yield Site(work, project, environment)
        finally:
            valkey.stop()


@contextmanager
def workers(at: Site, queue: str, count: int) -> Iterator[Callable[[], object]]:
    """So many workers for one queue; what is yielded is called while they are waited for."""
    log = at.work.settings.data_dir / "worker.log"
    command = [sys.executable, "-m", "backend", "worker"]
    options = ["--workers", str(count), "--queues", queue]
    process = Process([*command, *options], log, at.environment, cwd=ROOT)
    try:
        wait_until(
            lambda: len(registered_workers(at.work.redis, queue)) == count,
            START_LIMIT_S,
            "the workers",
        )
        yield lambda: time.sleep(0.05)
    finally:
        process.stop()
        at.work.redis.flushall()


def stage_s(
    at: Site, queue: str, count: int, begin: Callable[[Site], Round], stage: Stage
) -> float:
    """Seconds that so many workers take for a stage of a round."""
    ledger = at.work.ledger
    # By its name in this module, which the smoke run replaces: processes that import torch take
    # seconds.
    with workers(at, queue, count) as turn:
        round_ = begin(at)
        deadline = time.monotonic() + STAGE_LIMIT_S
        while stage not in (timings := ledger.rounds.get(round_.id).timings):
            turn()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no end of {stage} after {STAGE_LIMIT_S:.0f} s")
        ledger.rounds.cancel(round_.id, "It was measured.")
    return timings[stage]


def begun(at: Site, kind: RoundKind, first: Stage, stage: Stage, outcome: Outcome) -> Round:
    """A round whose first stage ended so, at the stage to be measured."""
    ledger = at.work.ledger
    round_ = ledger.rounds.start(at.project.id, kind, "bench", first, {})
    assert round_ is not None
    taken = ledger.parts.take(ledger.parts.of_round(round_.id)[0].id, "bench")
    assert taken is not None
    ledger.parts.finish(taken, outcome, next_stage=stage)
    return ledger.rounds.get(round_.id)


@row(
    "scale",
    "two_workers",
    against=f"one worker; {Scoring.candidates} candidates of {Scoring.side_px} px, "
    f"{Scoring.members} members, one thread each",
    unit="s",
    goal=1.8,
    sizes=Scoring(),
    small=Scoring(candidates=1, side_px=64, members=1, network="unet", repeats=1),
)
def two_workers(sizes: Scoring) -> Measured:
    image = encode_png(draw_field(0, size=(sizes.side_px, sizes.side_px)).image)
    with site(image, sizes.candidates) as at:
        version = _promoted(at, sizes)
        tasks = [(number, f"/data/upload/{number}/field.png") for number in range(sizes.candidates)]
        shards: Sequence[Payload] = [
            {"version": version, "tasks": tasks[first : first + SHARD_TASKS]}
            for first in range(0, len(tasks), SHARD_TASKS)
        ]

        def begin(at: Site) -> Round:
            return begun(at, "rank", "choose", "score", Outcome(next_payloads=shards))

        taken: dict[int, list[float]] = {1: [], 2: []}
        for number in range(sizes.repeats):
            for count in (1, 2) if number % 2 == 0 else (2, 1):
                taken[count].append(stage_s(at, "score", count, begin, "score"))
    return Measured(
        statistics.median(taken[2]), statistics.median(taken[1]), max(map(spread, taken.values()))
    )


def _promoted(at: Site, sizes: Scoring) -> int:
    """A version that scores, compiled already."""
    config = TrainConfig(CLASSES, members=sizes.members, network=sizes.network)
    adopted = at.work.ledger.rounds.adopt(at.project.id, "bench")
    assert adopted.version is not None
    weights = []
    for member in range(sizes.members):
        torch.manual_seed(member)
        weights.append(skeleton(config).state_dict())
    metrics = {"temperature": 1.0}
    at.work.registry.save_version(at.project.slug, adopted.version, weights, config, {}, metrics)
    at.work.ledger.versions.record(
        *(at.project.id, adopted.version, adopted.id),
        state="promoted",
        reason="bench",
        members=sizes.members,
        classes=CLASSES,
        metrics={},
    )
    field = draw_field(1, size=(sizes.side_px, sizes.side_px))
    at.work.registry.load(at.project.slug, adopted.version).predict(field.image)
    return adopted.version


@row(
    "scale",
    "two_workers_fit",
    against=f"three members over {Fitting.members}, each as one part; ours is two workers over "
    f"one, {Fitting.members} parts of {Fitting.steps} steps",
    unit="share",
    goal=0.9,
    sizes=Fitting(),
    small=Fitting(members=1, images=2, side_px=64, steps=1, crop_px=32, network="unet"),
)
def two_workers_fit(sizes: Fitting) -> Measured:
    """Of five members the last has no other beside it: two workers take three turns."""
    config = TrainConfig(
        CLASSES,
        members=sizes.members,
        network=sizes.network,
        steps=sizes.steps,
        crop_px=sizes.crop_px,
    )
    with site(b"", 0) as at:
        manifest = []
        for number in range(sizes.images):
            field = draw_field(number, size=(sizes.side_px, sizes.side_px))
            example = make_example(f"{number}", field.image, field.mask.clip(0, 2), 1024)
            at.work.registry.put_example(at.project.slug, f"d{number}", example)
            manifest.append({"task": number, "stamp": "s", "audit": False, "digest": f"d{number}"})
        outcome = Outcome(
            config=config.to_json(),
            manifest=manifest,
            next_payloads=[{"member": member} for member in range(sizes.members)],
        )

        def begin(at: Site) -> Round:
            return begun(at, "train", "collect", "fit", outcome)

        def one_part_s(members: int) -> float:
            round_ = begin(at)
            started = time.perf_counter()
            for member in range(members):
                fit(at.work, round_, {"member": member}, lambda _progress: None)
            taken_s = time.perf_counter() - started
            at.work.ledger.rounds.cancel(round_.id, "It was measured.")
            return taken_s

        turns = (sizes.members + 1) // 2
        one_part_s(1)  # the first training of a process takes longer
        whole_s, half_s = one_part_s(sizes.members), one_part_s(turns)
        one_s, two_s = (stage_s(at, "train", count, begin, "fit") for count in (1, 2))
    note = (
        f"{sizes.members} and {turns} members as one part {whole_s:.1f} and {half_s:.1f} s, "
        f"one and two workers {one_s:.1f} and {two_s:.1f} s"
    )
    return Measured(two_s / one_s, half_s / whole_s, 0.0, note)
