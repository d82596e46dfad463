"""The file that one scoring job leaves for publishing."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from backend.rounds.ranking import Candidate
from backend.workplace import Workplace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARD_TASKS = 32
"""Tasks of one scoring job: long enough to repay the start of a process, short enough to repeat."""


@dataclass(frozen=True)
class Scored(Candidate):
    """What the scoring of one task left; ``result`` is its regions as JSON text."""

    result: bytes = b"[]"


def write_shard(
    work: Workplace,
    slug: str,
    round_id: int,
    payload: Mapping[str, Any],
    scored: Sequence[Mapping[str, Any]],
) -> str:
    """Keep what was scored for publishing; its name, by what was asked, so that repeats agree.

    A line for each task, what ranks it and its result with a tab between: the masks are most of
    it, and publishing hands them on without reading them.
    """
    name = f"shard-{hashlib.sha256(orjson.dumps(payload)).hexdigest()[:16]}.gz"
    lines = [
        orjson.dumps({key: value for key, value in entry.items() if key != "result"})
        + b"\t"  # within JSON's strings it is escaped
        + orjson.dumps(entry["result"])
        for entry in scored
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


def _scored(entry: Mapping[str, Any], result: bytes) -> Scored:
    import numpy as np

    features, shown = entry.get("features"), entry.get("class_scores")
    return Scored(
        entry["arms"],
        None if features is None else unpacked(features),
        None if shown is None else np.array(shown, np.float32),
        result,
    )


def packed(features: NDArray[np.float32]) -> str | None:
    """Features [F] in half precision as text, an eighth of their length as JSON numbers; None
    where one is not finite, as of a laboratory's own network it may be."""
    import numpy as np

    if not np.isfinite(features).all():
        return None
    largest = float(np.finfo(np.float16).max)
    return base64.b64encode(features.clip(-largest, largest).astype("<f2").tobytes()).decode()


def unpacked(text: str) -> NDArray[np.float16]:
    """What ``packed`` packed."""
    import numpy as np

    return np.frombuffer(base64.b64decode(text), "<f2")
