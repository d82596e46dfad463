"""Shards: what scoring leaves comes back whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import orjson
import pytest

from backend.rounds.stages.shards import Scored, halved, read_shards, write_shard
from backend.workplace import Workplace
from training.committee.hesitation import Hesitation
from training.committee.registry import Registry
from training.quality.usable import Focus

SLUG = "server-1-2"
GRID = np.array([[0, 64, 255], [3, 0, 1]], np.uint8)


@pytest.fixture
def work(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(registry=Registry(tmp_path))


def stored(work: SimpleNamespace, shards: list[dict[int, Scored]]) -> Workplace:
    """A workplace whose round 7 has scored these shards."""
    place = cast(Workplace, work)
    files = [
        write_shard(place, SLUG, 7, {"version": number, "tasks": []}, shard)
        for number, shard in enumerate(shards)
    ]
    results = [{"file": file} for file in files]
    work.ledger = SimpleNamespace(parts=SimpleNamespace(results=lambda round_id, stage: results))
    return place


def entry(task_id: int, result: bytes = b"[]") -> Scored:
    return Scored(arms={"bald/image_mean": task_id / 8}, result=result)


def test_shards_come_back_whole_whatever_their_labels_hold(work: SimpleNamespace) -> None:
    label = "tab\tline\nreturn\r separator\u2028 é"
    result = orjson.dumps([{"value": {"labels": [label]}}])
    shards = [{3: entry(3, result), 1: entry(1)}, {}, {2: entry(2)}]
    scored = read_shards(stored(work, shards), SLUG, 7)
    assert list(scored) == [3, 1, 2]
    assert scored[3].arms == {"bald/image_mean": 3 / 8}
    assert scored[3].result == result
    assert scored[1].result == b"[]"


def test_a_repeated_shard_replaces_itself(work: SimpleNamespace) -> None:
    place = stored(work, [{1: entry(1)}])
    again = write_shard(place, SLUG, 7, {"version": 0, "tasks": []}, {1: entry(1)})
    assert [path.name for path in (work.registry.root / SLUG / "rounds/7").iterdir()] == [again]


def test_a_shard_carries_what_the_queue_needs(work: SimpleNamespace) -> None:
    scored = Scored(
        arms={},
        features=halved(np.arange(5, dtype=np.float32) / 3),
        class_scores=np.array([0.25, 0.0, 0.5], np.float32),
        focus=Focus(0.5, 120.0),
        hesitation=Hesitation((20, 30), GRID, (0, 2), (("Cell", 0.5), ("background", 0.25))),
    )
    found = read_shards(stored(work, [{1: scored, 2: entry(2)}]), SLUG, 7)
    assert found[1].features == pytest.approx(np.arange(5) / 3, abs=1e-3)
    assert found[1].class_scores is not None
    assert found[1].class_scores.tolist() == [0.25, 0.0, 0.5]
    assert found[1].focus == Focus(0.5, 120.0)
    unsure = found[1].hesitation
    assert unsure is not None
    assert scored.hesitation is not None
    assert np.array_equal(unsure.grid, GRID)
    assert replace(unsure, grid=scored.hesitation.grid) == scored.hesitation
    assert (found[2].features, found[2].class_scores, found[2].focus) == (None, None, None)
    assert found[2].hesitation is None


def test_features_beyond_half_precision_stay_finite() -> None:
    features = halved(np.array([1e9, -1e9], np.float32))
    assert features is not None
    assert np.isfinite(features).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_features_that_are_not_finite_are_none(odd: float) -> None:
    assert halved(np.array([1.0, odd], np.float32)) is None
