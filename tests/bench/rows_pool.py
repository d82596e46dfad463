"""What a pool of a million tasks costs more than one of ten thousand: a stub Label Studio that
knows its tasks by their numbers, and a ledger filled with the labels of both."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from sqlalchemy import Table, insert, update

from backend.label_studio.bulk import Stamp
from backend.ledger import StampsListing
from backend.ledger.entities import Evidence, Round, TaskStamps
from backend.rounds.annotated import JUST_AFTER_S
from backend.rounds.schedule import label_states
from tests.backend.small_studio import CREATED, CREATED_S, LABEL_CONFIG, SmallStudio, small_studio
from tests.backend.workplaces import open_workplace
from tests.bench.harness import Measured, row, spread
from tests.live.harness.servers import ROOT
from training.config import TrainConfig
from training.networks.build import skeleton

CLASSES = ("background", "dark", "bright")
CHECK_LIMIT_S = 2.0
LIMIT = 1.2


@dataclass(frozen=True)
class Pool:
    """Projects of so many tasks, with the same labels and the same candidates."""

    large: int = 1_000_000
    small: int = 10_000
    labelled: int = 2000
    candidates: int = 2000
    times: int = 5


TINY = Pool(large=400, small=200, labelled=20, candidates=30, times=1)


@row(
    "scale",
    "round_1M_vs_10k",
    against=f"limit; stages choose and publish on {Pool.large:,} tasks over those on "
    f"{Pool.small:,}, the worse of time and peak memory",
    unit="factor",
    goal=1.0,
    sizes=Pool(),
    small=TINY,
)
def round_1m_vs_10k(sizes: Pool) -> Measured:
    with pool(sizes, sizes.small) as small, pool(sizes, sizes.large) as large:
        few: list[dict[str, float]] = []
        many: list[dict[str, float]] = []
        for number in range(2):  # the order alternates, as the machine drifts
            turns = [(few, small), (many, large)]
            for found, measure in turns if number == 0 else reversed(turns):
                found += measure(sizes.times)
    seconds = [[each["round_s"] for each in found] for found in (few, many)]
    peaks = [max(each["peak_mb"] for each in found) for found in (few, many)]
    few_s, many_s = map(statistics.median, seconds)
    note = (
        f"{few_s:.2f} and {many_s:.2f} s, peaks of the process {peaks[0]:.0f} and {peaks[1]:.0f} MB"
    )
    factor = max(many_s / few_s, peaks[1] / peaks[0])
    return Measured(factor, LIMIT, max(map(spread, seconds)), note)


@row(
    "scale",
    "check_1M",
    against=f"limit; nothing changed, {Pool.large:,} tasks, 10,000 of them labelled",
    unit="s",
    goal=1.0,
    sizes=Pool(labelled=10_000),
    small=TINY,
)
def check_1m(sizes: Pool) -> Measured:
    with pool(sizes, sizes.large) as measure:
        found = [each["check_s"] for each in measure(sizes.times)]
    return Measured(statistics.median(found), CHECK_LIMIT_S, spread(found))


@contextmanager
def pool(sizes: Pool, tasks: int) -> Iterator[Callable[[int], list[dict[str, float]]]]:
    """What is yielded makes so many rounds and checks in a process of their own."""
    with (
        TemporaryDirectory(prefix="bench-") as folder,
        small_studio(tasks, annotated=sizes.labelled) as studio,
    ):
        fill(Path(folder), studio, sizes)

        def measure(times: int) -> list[dict[str, float]]:
            # By its name in this module, which the smoke run replaces: processes that import torch
            # take seconds.
            return apart(studio.url, Path(folder), sizes.candidates, times + 1)[1:]  # it warms up

        yield measure


def apart(url: str, folder: Path, candidates: int, times: int) -> list[dict[str, float]]:
    """``large_pool.measure`` in a process of its own, to be weighed."""
    command = [sys.executable, "-m", "tests.bench.large_pool", url, str(folder)]
    done = subprocess.run(
        [*command, str(candidates), str(times)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def fill(folder: Path, studio: SmallStudio, sizes: Pool) -> None:
    """A project that was labelled and trained: a manifest, evidence, a version, stamps."""
    with open_workplace(folder, label_studio_url=studio.url) as work:
        ledger = work.ledger
        project = ledger.projects.ensure(
            work.server, 1, CREATED_S, title="bench", label_config=LABEL_CONFIG
        )
        ledger.projects.update(project.id, pool=studio.tasks)
        adopted = ledger.rounds.adopt(project.id, "bench")
        assert adopted.version is not None
        config = TrainConfig(CLASSES, members=1, network="unet")
        torch.manual_seed(0)
        weights = [skeleton(config).state_dict()]
        metrics = {"temperature": 1.0}
        work.registry.save_version(project.slug, adopted.version, weights, config, {}, metrics)
        ledger.versions.record(
            *(project.id, adopted.version, adopted.id),
            state="promoted",
            reason="bench",
            members=1,
            classes=CLASSES,
            metrics={},
        )
        tasks = range(1, sizes.labelled + 1)
        states = label_states({task: (Stamp(task, CREATED, False),) for task in tasks})
        manifest = [
            {
                **{"task": task, "stamp": states[task], "annotations": [[task, CREATED]]},
                **{"audit": False, "url": f"/data/upload/{task}/field.png", "digest": f"d{task}"},
            }
            for task in tasks
        ]
        stamps = [
            {"project_id": project.id, "task_id": task, "stamps": [[task, CREATED, False]]}
            for task in tasks
        ]
        evidence: list[dict[str, Any]] = [
            {
                **{"project_id": project.id, "task_id": task, "round_id": adopted.id},
                **{"version": 1, "stamp": states[task], "rewards": {}, "scores": {}},
                **{"error": 0.1, "wrong": 1, "judged": 10, "audit": False},
                **{"chosen_for": "uncertainty", "judged_at": 0.0},
            }
            for task in tasks
        ]
        with ledger.database.write() as db:
            db.connection().execute(insert(cast(Table, TaskStamps.__table__)), stamps)
            db.connection().execute(insert(cast(Table, Evidence.__table__)), evidence)
            db.execute(update(Round).values(manifest=manifest))
            db.merge(
                StampsListing(
                    project_id=project.id,
                    changed_at=CREATED_S,
                    seen_at=0.0,
                    ask_from=CREATED_S + JUST_AFTER_S,
                    listed_at=time.time(),
                    unlisted=0,
                )
            )
