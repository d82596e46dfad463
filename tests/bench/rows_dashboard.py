"""The dashboard's first view, by a web that has just started, on the ledger of a large project."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from sqlalchemy import Table, insert, update

from backend.ledger.entities import Part, Place, Round
from backend.settings import Settings
from backend.workplace import Workplace
from tests.backend.web.dashboard.filled import NUMBER, fill
from tests.backend.workplaces import make_settings, open_client
from tests.bench.harness import Measured, against_limit, row

OWNER = ("owner", "its-own-8731")
FIRST_VIEW_MS = 1000.0


@dataclass(frozen=True)
class Size:
    tasks: int
    rounds: int


@contextmanager
def large_ledger(size: Size) -> Iterator[Settings]:
    """A ledger with so many rounds, and so many tasks in the queue that serves; a round runs."""
    with TemporaryDirectory() as folder:
        settings = make_settings(Path(folder), dashboard_pass=OWNER[1])
        work = Workplace(settings)
        project = fill(work, rounds=size.rounds, tasks=4)
        serving = work.ledger.publications.serving(project.id)
        assert serving is not None
        places = [
            {
                "publication_id": serving.id,
                "task_id": 1_000_000 + n,
                "position": 4 + n,
                "uncertainty": 0.5,
                "audit": False,
                "arms": {},
                "why": "uncertainty",
            }
            for n in range(size.tasks)
        ]
        manifest = [
            {"task": n, "stamp": "a" * 16, "annotations": [[n, ""]], "audit": False, "digest": None}
            for n in range(10 * size.rounds)
        ]
        running = work.ledger.rounds.start(project.id, "train", "10 labels", "score", {})
        assert running is not None
        with work.ledger.database.write() as db:
            db.connection().execute(insert(cast(Table, Place.__table__)), places)
            db.execute(update(Round).where(Round.id > size.rounds - 3).values(manifest=manifest))
            shard = {"version": 1, "tasks": [[n, f"/data/upload/1/{n}.png"] for n in range(32)]}
            db.add_all(
                Part(round_id=running.id, stage="score", number=n, payload=shard)
                for n in range(1, 63)
            )
        work.close()
        # The doctor has looked: it runs beside the pages, and is not what is measured.
        found = {"at": time.time(), "findings": []}
        (settings.data_dir / "doctor.json").write_text(json.dumps(found))
        yield settings


@row(
    "dashboard",
    "dashboard_first_view",
    against="limit; 100,000 tasks, 500 rounds, a new process, Label Studio away",
    unit="ms",
    goal=1.0,
    sizes=Size(100_000, 500),
    small=Size(50, 3),
    setting=large_ledger,
)
def dashboard_first_view(_size: Size, settings: Settings) -> Measured:
    def view() -> None:
        with open_client(settings) as client:
            answer = client.get(f"/projects/{NUMBER}/", auth=OWNER)
            assert answer.status_code == 200

    return against_limit(view, limit=FIRST_VIEW_MS, rounds=5, clock=time.perf_counter)
