"""The file that one scoring job leaves for publishing."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from backend.ledger.shapes import ScorePayload
from backend.rounds.ranking import Candidate
from backend.workplace import Workplace
from training.batch.scores import halved as halved
from training.quality.usable import Focus

if TYPE_CHECKING:
    from training.committee.hesitation import Hesitation

SHARD_TASKS = 32
"""Tasks of one scoring job: long enough to repay the start of a process, short enough to repeat."""


@dataclass(frozen=True)
class Scored(Candidate):
    """What scoring leaves of a task for publishing.

    Attributes:
        result: its regions as JSON text: publishing hands them on without reading them.
        focus: how sharp and how rich in contrast the image is; None where it was not read.
        hesitation: what its uncertainty layer shows; None where it can get none.
    """

    result: bytes = b"[]"
    focus: Focus | None = None
    hesitation: Hesitation | None = None


def write_shard(
    work: Workplace,
    slug: str,
    round_id: int,
    payload: ScorePayload,
    scored: Mapping[int, Scored],
) -> str:
    """Keep what was scored, by task id; the file's name, the same whenever the same was asked.

    A line for each task, what ranks it and its result with a tab between.
    """
    name = f"shard-{hashlib.sha256(orjson.dumps(payload)).hexdigest()[:16]}.gz"
    lines = [
        _ranked_by(task_id, each) + b"\t" + each.result  # within JSON's strings it is escaped
        for task_id, each in scored.items()
    ]
    work.registry.put_round(slug, round_id, name, gzip.compress(b"\n".join(lines), 1))
    return name


def read_shards(work: Workplace, slug: str, round_id: int) -> dict[int, Scored]:
    """All that the round scored, by task id."""
    scored: dict[int, Scored] = {}
    for shard in work.ledger.parts.results(round_id, "score"):
        data = gzip.decompress(work.registry.get_round(slug, round_id, shard["file"]))
        for line in data.splitlines():
            head, result = line.split(b"\t", 1)
            entry = orjson.loads(head)
            scored[entry["task"]] = _scored(entry, result)
    return scored


def _ranked_by(task_id: int, scored: Scored) -> bytes:
    features, shown = scored.features, scored.class_scores
    unsure = scored.hesitation
    return orjson.dumps(
        {
            "task": task_id,
            "arms": scored.arms,
            # An eighth of their length as JSON numbers.
            "features": None if features is None else base64.b64encode(features.data).decode(),
            "class_scores": None if shown is None else shown.tolist(),
            "focus": scored.focus,
            "hesitation": unsure
            and {
                "size": unsure.size,
                "cells": unsure.grid.shape,
                "grid": base64.b64encode(unsure.grid.tobytes()).decode(),
                "at": unsure.at,
                "between": unsure.between,
            },
        }
    )


def _scored(entry: Mapping[str, Any], result: bytes) -> Scored:
    import numpy as np

    features, shown = entry.get("features"), entry.get("class_scores")
    focus = entry.get("focus")  # a round that an earlier release began has none
    return Scored(
        entry["arms"],
        None if features is None else np.frombuffer(base64.b64decode(features), "<f2"),
        None if shown is None else np.array(shown, np.float32),
        result,
        None if focus is None else Focus(**focus),
        _hesitation(entry.get("hesitation")),
    )


def _hesitation(entry: Mapping[str, Any] | None) -> Hesitation | None:
    import numpy as np

    from training.committee.hesitation import Hesitation

    if entry is None:
        return None
    grid = np.frombuffer(base64.b64decode(entry["grid"]), np.uint8).reshape(entry["cells"])
    (height, width), (row, column) = entry["size"], entry["at"]
    (first, most), (second, next_most) = entry["between"]
    return Hesitation((height, width), grid, (row, column), ((first, most), (second, next_most)))
