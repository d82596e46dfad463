"""A ledger as some weeks of work leave it, with markup in every text that people choose."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from backend.ledger import Ledger, Project
from backend.ledger.entities import Evidence, Part, Round, Version
from backend.ledger.shapes import AnnotatorPair, Metrics
from backend.options import AGGREGATES, MEASURES
from backend.rounds.schedule import STAGES
from backend.workplace import Workplace
from tests.backend.rows import place
from tests.backend.workplaces import brush_config

MARKUP = '<script>alert("x")</script>&amp;'
TITLE = f"Urine {MARKUP}"
CLASSES = ("background", f"Red cell {MARKUP}", "Leucocyte", "Cast")
NUMBER = 7
ARMS = tuple(f"{measure}/{aggregate}" for measure in MEASURES for aggregate in AGGREGATES)
DAY_S = 86400.0


def fill(work: Workplace, rounds: int = 8, tasks: int = 60, **fields: Any) -> Project:
    """A connected project with ``rounds`` training rounds, the last of which serves a queue.

    Args:
        tasks: in the queue.
        fields: of the project.
    """
    ledger, chance = work.ledger, random.Random(5)
    row = ledger.projects.ensure(
        work.server, NUMBER, 1, title=TITLE, label_config=brush_config(*CLASSES[1:])
    )
    ledger.projects.update(
        row.id, labelled=10 * rounds, changed=6, ranked_left=tasks, pool=tasks, **fields
    )
    began = time.time() - rounds * DAY_S
    for number in range(1, rounds + 1):
        _add_round(ledger, row.id, number, began + number * DAY_S, chance)
        if number > rounds - 4:
            _publish(ledger, row.id, number, tasks if number == rounds else 1, chance)
    return ledger.projects.get(row.id)


def _add_round(
    ledger: Ledger, project_id: int, number: int, at: float, chance: random.Random
) -> None:
    timings = {stage: 20.0 + chance.random() * 4 for stage in STAGES["train"]}
    with ledger.database.write() as db:
        ended = Round(
            project_id=project_id,
            kind="train",
            reason=f"10 labels changed {MARKUP}",
            stage="publish",
            state="succeeded",
            version=number,
            problems=[f"Task 3: no image {MARKUP}"],
            timings=timings,
            started_at=at,
            stage_started_at=at,
            ended_at=at + sum(timings.values()),
        )
        db.add(ended)
        db.flush()
        db.add(
            Version(
                project_id=project_id,
                number=number,
                round_id=ended.id,
                state="kept" if number == 3 else "promoted",
                reason=f"better than the one before {MARKUP}",
                members=5,
                classes=list(CLASSES),
                metrics=metrics(number, chance),
                created_at=at + 60,
            )
        )
        db.add_all(_evidence(project_id, ended.id, number, at, chance))
        db.add(_collected(ended.id, 10 * number))


def _collected(round_id: int, labels: int) -> Part:
    """The first thirty labels from nothing in some 90 s each, the others with help in some 40."""
    times = [(1e9 + 60 * n, 40.0 + n % 7 + 50 * (n < 30), n >= 30) for n in range(min(labels, 100))]
    pair: AnnotatorPair = {"one": 1, "two": 4, "tasks": 3, "dice": 0.7, "least": [(1004, 0.5)]}
    return Part(
        round_id=round_id,
        stage="collect",
        number=0,
        state="done",
        result={"labelled": labels, "pairs": [pair], "times": times},
    )


def metrics(number: int, chance: random.Random) -> Metrics:
    """Of version ``number``: better from version to version."""
    level = 1 - 0.6 / (number + 1)
    dice = {name: round(level - 0.05 * place, 3) for place, name in enumerate(CLASSES)}
    examples = 10 * number
    return {
        "out_of_fold": True,
        "examples": examples,
        "dice": {**dice, CLASSES[3]: None if number < 3 else dice[CLASSES[3]]},
        "iou": {name: round(value / (2 - value), 3) for name, value in dice.items()},
        "foreground_dice": round(level - 0.1, 3),
        "scores": {str(1000 + n): level + chance.uniform(-0.1, 0.1) for n in range(examples)},
        "label_check": [
            {
                "key": str(1000 + n),
                "share": 0.4 / (n + 1),
                "pixels": 0.03 / (n + 1),
                "labelled": CLASSES[1],
                "predicted": CLASSES[2],
            }
            for n in range(min(examples, 100))
        ],
        "confusion": [
            {"labelled": CLASSES[1], "predicted": "background", "pixels": 4321, "share": 0.0432},
        ],
        "class_examples": {
            CLASSES[1]: {"worst": [("1001", 0.1)], "best": [("1002", 0.9)]},
            CLASSES[2]: {"worst": [], "best": []},
        },
        "problems": [],
        "temperature": 1.3,
        "ece": 0.02,
        "ece_uncalibrated": 0.05,
        "reliability": [(0.1 * n + 0.05, 0.1 * n + 0.06, 1000 * (n + 1)) for n in range(10)],
        "labelled_images": {CLASSES[1]: examples, CLASSES[2]: examples // 2, CLASSES[3]: number},
        "audit": None if number < 4 else _audit(level, number),
    }


def _audit(level: float, number: int) -> Any:
    value = {"value": level - 0.12, "low": level - 0.2, "high": level - 0.05}
    dice = {name: dict(value) for name in CLASSES}
    return {"images": number, "foreground_dice": value, "dice": dice, "scores": {}}


def _evidence(
    project_id: int, round_id: int, number: int, at: float, chance: random.Random
) -> Sequence[Evidence]:
    found = []
    for task in range(10 * (number - 1), 10 * number):
        wrong = int(4000 / number * chance.uniform(0.5, 1.5))
        row = Evidence(
            task_id=1000 + task,
            round_id=round_id,
            version=max(1, number - 1),
            stamp="a" * 16,
            rewards={name: chance.uniform(0.2, 0.9) for name in MEASURES},
            scores=dict.fromkeys(ARMS, wrong / 8000),
            error=wrong / 65536,
            wrong=wrong,
            judged=65536,
            audit=task % 20 == 0,
            chosen_for=("uncertainty", "class", "chance")[task % 3],
        )
        row.project_id, row.judged_at = project_id, at
        found.append(row)
    return found


def _publish(
    ledger: Ledger, project_id: int, version: int, tasks: int, chance: random.Random
) -> None:
    last = ledger.rounds.last(project_id)
    assert last is not None
    whys = ("uncertainty", "class", "chance", "audit")
    places = [
        place(
            n + 1,
            n,
            "blurred" if n == tasks - 1 > 0 else whys[n % 4],
            uncertainty=1 - n / tasks,
            arms={arm: chance.random() for arm in ARMS},
        )
        for n in range(tasks)
    ]
    weights = {arm: 1 + version * arm.startswith("mutual_information") for arm in ARMS}
    weights = {arm: weight / sum(weights.values()) for arm, weight in weights.items()}
    publication = ledger.publications.prepare(
        project_id,
        version,
        last.id,
        arm=ARMS[0],
        quantiles=[0.9, 0.5, 0.1],
        places=places,
        mode="hedge",
        weights=weights,
        arm_quantiles={arm: [0.0, 0.5, 1.0] for arm in ARMS},
    )
    ledger.publications.serve(publication.id, tasks)


def begin_round(ledger: Ledger, project_id: int, progress: float = 0.5) -> int:
    """A training round that fits now: its number."""
    begun = ledger.rounds.start(project_id, "train", f"10 labels changed {MARKUP}", "collect", {})
    assert begun is not None
    with ledger.database.write() as db:
        row = db.get_one(Round, begun.id)
        row.stage, row.stage_started_at = "fit", time.time() - 10
        row.timings = {"collect": 21.0, "judge": 20.0}
        db.add(Part(round_id=begun.id, stage="fit", number=0, progress=progress))
    return begun.id
