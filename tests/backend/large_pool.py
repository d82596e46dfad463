"""``python -m tests.backend.large_pool URL FOLDER TIMES``: what the check and a queue of a large
pool take, so many times in one process; a line of JSON for each."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import psutil

from backend.ledger import START
from backend.rounds.retention import prune
from backend.rounds.schedule import check_project, next_stage
from backend.rounds.stages import RUN
from backend.workplace import Workplace
from tests.backend.small_studio import CREATED_S, LABEL_CONFIG
from tests.backend.workplaces import make_settings


def main() -> None:
    url, folder, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    work = Workplace(make_settings(folder, label_studio_url=url, retrain_every=1_000_000))
    row = work.ledger.projects.ensure(
        work.server, 1, CREATED_S, label_config=LABEL_CONFIG, extra_params={"mode": "random"}
    )
    for _ in range(times):
        started = time.perf_counter()
        # Without labels the check itself starts one; with them it counts, and leaves it to us.
        check_project(work, row.id)
        if work.ledger.rounds.active(row.id) is None:
            work.ledger.rounds.start(row.id, START, "large pool", "choose", {})
        published = play_round(work, row.id)
        prune(work, row)
        found = {
            "published": published,
            "seconds": time.perf_counter() - started,
            "rss_mb": psutil.Process().memory_info().rss / 1e6,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            "ledger_mb": work.settings.ledger_path.stat().st_size / 1e6,
        }
        print(json.dumps(found), flush=True)
    work.close()


def play_round(work: Workplace, project_id: int) -> int:
    """Do the active round's parts, one after the other; how many tasks it published."""
    result: dict[str, int] = {}
    while (round_ := work.ledger.rounds.active(project_id)) is not None:
        for part in work.ledger.parts.of_round(round_.id, round_.stage):
            taken = work.ledger.parts.take(part.id, "alone")
            assert taken is not None
            outcome = RUN[part.stage](work, round_, part.payload, lambda _share: None)
            following = next_stage(round_.kind, part.stage)
            work.ledger.parts.finish(taken, outcome, next_stage=following)
            result = dict(outcome.result)
    return result["published"]


if __name__ == "__main__":
    main()
