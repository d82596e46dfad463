"""What a round's stages do without a server: shards, candidates, places."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest

from backend.errors import NotEnoughLabels
from backend.stages import (
    check_folds,
    choose_candidates,
    labelled_images,
    packed,
    place_score,
    read_shards,
    unpacked,
    write_shard,
)
from backend.workplace import Workplace
from training.data import Example
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
        assert choose_candidates([5, 3, 9], [9], 3, seed=0) == ([5, 3, 9], None)

    def test_half_are_the_last_head_in_its_order_and_the_rest_is_chance(self) -> None:
        pool = list(range(100))
        chosen, drawn = choose_candidates(pool, [40, 7, 200, 12, 30, 31], 6, seed=0)
        assert chosen[:3] == [40, 7, 12]  # 200 has been labelled since
        assert drawn == chosen[3:]
        assert len(set(chosen)) == 6
        assert set(chosen) <= set(pool)

    def test_without_a_last_head_all_are_chance(self) -> None:
        for head in ([], [200]):
            chosen, drawn = choose_candidates(range(100), head, 6, seed=0)
            assert drawn == chosen
            assert len(set(chosen)) == 6

    def test_chance_draws_from_the_whole_pool_alike_the_last_head_included(self) -> None:
        draws = [choose_candidates(range(30), [0, 1, 2, 3], 10, seed=s) for s in range(3000)]
        for chosen, drawn in draws:
            assert drawn is not None
            assert len(set(chosen)) == len(chosen) == 10
            assert {0, 1, 2, 3} <= set(chosen)
        counts = np.bincount([t for _, drawn in draws for t in drawn or ()], minlength=30)
        # 6 of 30 each time; four standard deviations of so many draws.
        assert np.abs(counts / 3000 - 0.2).max() < 4 * (0.2 * 0.8 / 3000) ** 0.5

    def test_no_image_is_out_of_reach(self) -> None:
        seen = {
            task_id
            for seed in range(200)
            for task_id in choose_candidates(range(30), [0, 1, 2, 3], 4, seed=seed).task_ids
        }
        assert seen >= set(range(4, 30))

    def test_a_seed_settles_them(self) -> None:
        one, two = (choose_candidates(range(50), [], 9, seed=4) for _ in range(2))
        assert one == two


class TestPlaces:
    def test_scores_rise_with_the_place_and_stay_inside_0_and_1(self) -> None:
        scores = [place_score(position, 4) for position in range(4)]
        assert scores == [0.125, 0.375, 0.625, 0.875]


def test_a_shard_carries_what_the_queue_needs(work: SimpleNamespace) -> None:
    scored = {**entry(1, []), "features": packed(np.arange(5, dtype=np.float32) / 3)}
    scored["class_scores"] = [0.25, 0.0, 0.5]
    found = read_shards(stored(work, [[scored, entry(2, [])]]), SLUG, 7)
    assert found[1].features == pytest.approx(np.arange(5) / 3, abs=1e-3)
    assert found[1].class_scores is not None
    assert found[1].class_scores.tolist() == [0.25, 0.0, 0.5]
    assert (found[2].features, found[2].class_scores) == (None, None)


def test_features_beyond_half_precision_stay_finite() -> None:
    text = packed(np.array([1e9, -1e9], np.float32))
    assert text is not None
    assert np.isfinite(unpacked(text)).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_features_that_are_not_finite_are_none(odd: float) -> None:
    assert packed(np.array([1.0, odd], np.float32)) is None


def test_images_are_counted_for_each_class_that_they_show() -> None:
    masks = [[[0, 1], [1, 255]], [[1, 1], [1, 1]], [[0, 0], [0, 255]]]
    examples = [
        Example(str(i), np.zeros((2, 2, 3), np.uint8), np.array(mask, np.uint8))
        for i, mask in enumerate(masks)
    ]
    counts = labelled_images(examples, ("background", "cell", "cast"))
    assert counts == {"background": 2, "cell": 2, "cast": 0}
