"""`python -m tests.bench.large_pool URL FOLDER CANDIDATES TIMES`: ranking rounds and checks of a
project whose ledger is filled, one after the other; a line of JSON for each.

A round is its stages choose and publish. Scoring takes the same for every pool, so it is made up.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from acquisition.aggregate import AGGREGATES
from acquisition.uncertainty import MEASURES
from backend.ledger import Outcome, Part
from backend.rounds.schedule import check_project
from backend.rounds.stages.choose import choose
from backend.rounds.stages.publish import publish
from backend.rounds.stages.shards import Scored, halved, write_shard
from backend.workplace import Workplace
from tests.backend.workplaces import open_workplace

ARMS = tuple(f"{measure}/{aggregate}" for measure in MEASURES for aggregate in AGGREGATES)
FEATURES = 432


def main() -> None:
    url, folder, candidates, times = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    for found in measure(url, folder, candidates, times):
        print(json.dumps(found), flush=True)


def measure(url: str, folder: Path, candidates: int, times: int) -> Iterator[dict[str, float]]:
    """Seconds of a round and of the check after it, and the peak memory, so many times."""
    given = {"label_studio_url": url, "candidates": candidates, "retrain_every": 1_000_000}
    with open_workplace(folder, **given) as work:
        [project] = work.ledger.projects.all()
        for _ in range(times):
            round_s = ranking_round_s(work, project.id)
            started = time.perf_counter()
            assert check_project(work, project.id) is None
            yield {
                "round_s": round_s,
                "check_s": time.perf_counter() - started,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            }


def ranking_round_s(work: Workplace, project_id: int) -> float:
    """Seconds that the round's own stages take."""
    ledger = work.ledger
    round_ = ledger.rounds.start(project_id, "rank", "bench", "choose", {})
    assert round_ is not None
    [part] = ledger.parts.of_round(round_.id)
    started = time.perf_counter()
    chosen = choose(work, round_, part.payload, _quietly)  # type: ignore[arg-type]
    taken_s = time.perf_counter() - started
    _finish(work, part, chosen, "score")
    slug = ledger.projects.get(project_id).slug
    generator = np.random.default_rng(round_.id)
    for part in ledger.parts.of_round(round_.id, "score"):
        scored = {task_id: _scored(generator) for task_id, _ in part.payload["tasks"]}  # type: ignore[typeddict-item]
        file = write_shard(work, slug, round_.id, part.payload, scored)  # type: ignore[arg-type]
        result = Outcome(
            result={"file": file, "scored": len(scored), "refused": 0}, next_payloads=[{}]
        )
        _finish(work, part, result, "publish")
    [part] = ledger.parts.of_round(round_.id, "publish")
    round_ = ledger.rounds.get(round_.id)
    started = time.perf_counter()
    outcome = publish(work, round_, part.payload, _quietly)  # type: ignore[arg-type]
    taken_s += time.perf_counter() - started
    if not outcome.result["published"] or outcome.problems:
        raise RuntimeError(f"the publication is not whole: {outcome}")
    _finish(work, part, outcome, None)
    return taken_s


def _scored(generator: np.random.Generator) -> Scored:
    return Scored(
        arms=dict.fromkeys(ARMS, generator.random()),
        features=halved(generator.normal(size=FEATURES).astype(np.float32)),
        class_scores=generator.random(3, np.float32),
        result=b"[]",
    )


def _finish(work: Workplace, part: Part, outcome: Outcome, following: str | None) -> None:
    taken = work.ledger.parts.take(part.id, "bench")
    assert taken is not None
    work.ledger.parts.finish(taken, outcome, next_stage=following)  # type: ignore[arg-type]


def _quietly(_share: float) -> None:
    pass


if __name__ == "__main__":
    main()
