"""What a round's stages do without a server: shards, candidates, places."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from backend.errors import NotEnoughLabels
from backend.options import parse_options
from backend.rounds import is_audit
from backend.stages import (
    check_folds,
    choose_candidates,
    place_score,
    rank,
    read_shards,
    score_between,
    write_shard,
)
from backend.workplace import Workplace
from training.fit import fold
from training.registry import Registry

SLUG = "server-1-2"


@pytest.fixture
def work(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(registry=Registry(tmp_path))


def stored(work: SimpleNamespace, shards: list[list[dict[str, Any]]]) -> Workplace:
    """A workplace whose round 7 has scored these shards."""
    place = cast(Workplace, work)
    files = [
        write_shard(place, SLUG, 7, {"version": 1, "shard": number}, shard)
        for number, shard in enumerate(shards)
    ]
    parts = [{"result": {"file": file}} for file in files]
    work.ledger = SimpleNamespace(parts=lambda round_id, stage: parts)
    return place


def entry(task_id: int, result: list[dict[str, Any]]) -> dict[str, Any]:
    return {"task": task_id, "arms": {"bald/image_mean": task_id / 8}, "result": result}


def test_shards_come_back_whole_whatever_their_labels_hold(work: SimpleNamespace) -> None:
    label = "tab\tline\nreturn\r separator\u2028 é"
    shards = [[entry(3, [{"value": {"labels": [label]}}]), entry(1, [])], [], [entry(2, [])]]
    scored = read_shards(stored(work, shards), SLUG, 7)
    assert list(scored) == [3, 1, 2]
    assert scored[3].arms == {"bald/image_mean": 3 / 8}
    assert orjson.loads(scored[3].result) == [{"value": {"labels": [label]}}]
    assert scored[1].result == b"[]"


def test_a_repeated_shard_replaces_itself(work: SimpleNamespace) -> None:
    place = stored(work, [[entry(1, [])]])
    again = write_shard(place, SLUG, 7, {"version": 1, "shard": 0}, [entry(1, [])])
    assert [path.name for path in work.registry.round_path(SLUG, 7).iterdir()] == [again]


def test_labels_that_leave_a_member_nothing_are_refused_before_training() -> None:
    together = [str(key) for key in range(200) if fold(str(key), 5) == 2][:3]
    with pytest.raises(NotEnoughLabels, match="all 3 labelled ones fall into the same share"):
        check_folds(together, 5)
    apart = next(str(key) for key in range(200) if fold(str(key), 5) == 4)
    check_folds([*together, apart], 5)
    check_folds(together[:1], 1)  # a lone member trains on all


class TestCandidates:
    def test_a_small_pool_is_scored_whole(self) -> None:
        assert choose_candidates([5, 3, 9], [9], 3, seed=0) == [5, 3, 9]

    def test_half_are_the_last_head_in_its_order_and_the_rest_is_chance(self) -> None:
        pool = list(range(100))
        chosen = choose_candidates(pool, [40, 7, 200, 12, 30, 31], 6, seed=0)
        assert chosen[:3] == [40, 7, 12]  # 200 has been labelled since
        assert len(set(chosen)) == 6
        assert set(chosen) <= set(pool)

    def test_no_image_is_out_of_reach(self) -> None:
        seen = {
            task_id
            for seed in range(200)
            for task_id in choose_candidates(range(30), [0, 1, 2, 3], 4, seed=seed)
        }
        assert seen >= set(range(4, 30))

    def test_a_seed_settles_them(self) -> None:
        one, two = (choose_candidates(range(50), [], 9, seed=4) for _ in range(2))
        assert one == two


class TestPlaces:
    def test_scores_rise_with_the_place_and_stay_inside_0_and_1(self) -> None:
        scores = [place_score(position, 4) for position in range(4)]
        assert scores == [0.125, 0.375, 0.625, 0.875]

    @pytest.mark.parametrize(
        ("doubt", "score"), [(0.95, 0.0), (0.5, 0.5), (0.05, 1.0), (0.6, 0.25)]
    )
    def test_a_task_from_outside_stands_behind_those_more_doubtful(
        self, doubt: float, score: float
    ) -> None:
        assert score_between(doubt, [0.9, 0.6, 0.4, 0.1]) == score

    def test_without_quantiles_it_stands_in_the_middle(self) -> None:
        assert score_between(0.3, []) == 0.5


def test_the_most_doubtful_stand_first_and_audits_anywhere() -> None:
    options = parse_options({"audit_fraction": 0.2})
    arms = {task_id: {"a/b": (task_id * 7 % 40) / 40} for task_id in range(40)}
    order = rank(arms, "a/b", SLUG, options, seed=3)
    assert sorted(order) == list(range(40))
    audits = {task_id for task_id in arms if is_audit(SLUG, task_id, 0.2)}
    assert 2 <= len(audits) <= 16
    ranked = [task_id for task_id in order if task_id not in audits]
    doubts = [arms[task_id]["a/b"] for task_id in ranked]
    assert doubts == sorted(doubts, reverse=True)
    assert order != ranked + sorted(audits)
    assert rank(arms, "a/b", SLUG, options, seed=3) == order
