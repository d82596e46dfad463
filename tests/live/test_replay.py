"""Replay of a small folder through the whole system, in both orders."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.commands.replay.plan import ReplayPlan
from backend.commands.replay.play import replay
from backend.label_studio.bulk import Studio
from backend.label_studio.control import control_of
from tests.live.harness.stack import CLASSES, TINY, Stack, write_folder

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


def test_a_folder_is_played_in_both_orders_and_purged(
    stack: Stack, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.commands.replay.play.POLL_S", 0.05)
    plan = ReplayPlan(
        write_folder(tmp_path / "fields", 20),
        rounds=2,
        per_round=7,
        order="both",
        steps=TINY["steps"],
        # Seven labels, of which one may audit, all but never fall into one fold of four, which
        # would fail the round.
        members=4,
        round_limit_s=400,
        purge=True,
    )
    said: list[str] = []
    # The annotator plays in a thread; the rounds are done here, where the worker is.
    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(replay, stack.work, plan, said.append)
        stack.wait(playing.done, "the replay to end", limit_s=400)
    result = playing.result()

    assert (result.training, result.held_back) == (16, 4)
    assert [curve.order for curve in result.curves] == ["queue", "random"]
    for curve in result.curves:
        assert [point.labels for point in curve.points] == [7, 14]
        assert [point.made for point in curve.points] == [1, 2]
        assert all(set(point.iou) == set(CLASSES[1:]) for point in curve.points)
        assert all(point.seconds["fit"] > 0 for point in curve.points)
        assert all(point.publication is not None for point in curve.points)
    queue, chance = result.curves
    assert [(point.served, point.mismatches) for point in queue.points] == [(0, 0), (7, 0)]
    assert [point.served for point in chance.points] == [0, 0]
    assert any("assemble" in line for line in said)

    left = {project.id for project in control_of(studio).all_projects()}
    assert not left & {curve.project for curve in result.curves}
    kept = {row.studio_id for row in stack.work.ledger.projects.all()}
    assert not kept & {curve.project for curve in result.curves}
