"""The harness of `make bench`: its rows, its file, its turns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.bench import harness
from tests.bench.__main__ import main
from tests.bench.harness import Measured, against_limit, choose, row, run, side_by_side, spread
from tests.bench.rows_brush import blob_mask


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, harness.Row]:
    rows: dict[str, harness.Row] = {}
    monkeypatch.setattr(harness, "ROWS", rows)
    return rows


NOTHING = {"against": "nothing", "unit": "ms", "sizes": "full", "small": "tiny"}


def add_row(name: str, measured: Measured, *, goal: float = 1.0) -> None:
    row("live-loop", name, goal=goal, **NOTHING)(lambda sizes: measured)


def broken(sizes: str, *given: object) -> Measured:
    raise RuntimeError("no server")


def written(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "bench.json").read_text())


def test_a_run_writes_what_the_issue_asks_for(
    registry: dict[str, harness.Row], tmp_path: Path
) -> None:
    add_row("fast", Measured(ours=2.0, peer=30.0, spread=0.01), goal=10.0)
    add_row("slow", Measured(ours=4.0, peer=3.0, spread=0.01))
    run(choose([]), tmp_path / "bench.json")
    rest = {"issue": "live-loop", "against": "nothing", "unit": "ms"}
    assert json.loads((tmp_path / "bench.json").read_text()) == [
        {"name": "fast", "ours": 2, "peer": 30, "ratio": 15, "goal": 10, "met": True, **rest},
        {"name": "slow", "ours": 4, "peer": 3, "ratio": 0.75, "goal": 1, "met": False, **rest},
    ]


def test_a_row_that_fails_is_written_with_its_error_and_the_others_are_measured(
    registry: dict[str, harness.Row], tmp_path: Path
) -> None:
    add_row("first", Measured(1.0, 1.0, 0.0))
    row("live-loop", "second", goal=1.0, **NOTHING)(broken)
    row("live-loop", "third", goal=1.0, **NOTHING)(lambda sizes: Measured(0.0, 1.0, 0.0))
    add_row("last", Measured(1.0, 1.0, 0.0))
    run(choose([]), tmp_path / "bench.json")
    first, second, third, last = written(tmp_path)
    assert first["met"]
    assert last["met"]
    assert second["error"] == "RuntimeError: no server"
    assert third["error"] == "ZeroDivisionError: float division by zero"
    for failed in (second, third):
        assert not failed["met"]
        assert failed["ratio"] is failed["ours"] is failed["peer"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_rows_share_their_setting_which_ends_even_when_one_fails(
    registry: dict[str, harness.Row], tmp_path: Path
) -> None:
    events: list[str] = []

    @contextmanager
    def servers(sizes: str) -> Iterator[str]:
        events.append(f"up, {sizes}")
        try:
            yield "http://127.0.0.1"
        finally:
            events.append("down")

    @row("live-loop", "one", goal=1.0, setting=servers, **NOTHING)
    def one(sizes: str, url: str) -> Measured:
        events.append(f"one at {url}")
        return Measured(1.0, 1.0, 0.0)

    add_row("without", Measured(1.0, 1.0, 0.0))
    row("live-loop", "two", goal=1.0, setting=servers, **NOTHING)(broken)
    run(choose([]), tmp_path / "bench.json")
    assert events == ["up, full", "one at http://127.0.0.1", "down"]
    assert [one["name"] for one in written(tmp_path)] == ["without", "one", "two"]


def test_a_setting_that_does_not_start_fails_its_rows_alone_and_is_tried_once(
    registry: dict[str, harness.Row], tmp_path: Path
) -> None:
    started: list[str] = []

    @contextmanager
    def servers(sizes: str) -> Iterator[str]:
        started.append(sizes)
        raise OSError("no port")
        yield ""

    @contextmanager
    def others(sizes: str) -> Iterator[str]:
        yield "up"
        raise OSError("does not stop")

    for name, setting in (("a", servers), ("b", servers), ("c", others)):
        row("live-loop", name, goal=1.0, setting=setting, **NOTHING)(
            lambda sizes, given: Measured(1.0, 1.0, 0.0)
        )
    run(choose([]), tmp_path / "bench.json", small=True)
    a, b, c = written(tmp_path)
    assert a["error"] == b["error"] == "OSError: no port"
    assert c["met"]
    assert started == ["tiny"]


def test_rows_are_chosen_by_name_once_each(registry: dict[str, harness.Row]) -> None:
    for name in ("a", "b", "c"):
        add_row(name, Measured(1.0, 1.0, 0.0))
    assert [one.name for one in choose(["c", "a", "c"])] == ["c", "a"]


def test_an_unknown_name_is_answered_with_those_there_are(
    registry: dict[str, harness.Row],
) -> None:
    add_row("a", Measured(1.0, 1.0, 0.0))
    with pytest.raises(ValueError, match="no row z; there are a"):
        choose(["a", "z"])


def test_a_second_row_of_a_name_and_an_unknown_issue_are_refused(
    registry: dict[str, harness.Row],
) -> None:
    add_row("a", Measured(1.0, 1.0, 0.0))
    with pytest.raises(ValueError, match="a row 'a' already"):
        add_row("a", Measured(1.0, 1.0, 0.0))
    with pytest.raises(ValueError, match="got 'speed'"):
        row("speed", "b", goal=1.0, **NOTHING)


def test_ours_and_the_peer_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SAMPLE_S", 0.0)  # one call a sample
    turns: list[str] = []
    side_by_side(lambda: turns.append("ours"), lambda: turns.append("peer"), rounds=4)
    warm_up = ["ours"] * 2 + ["peer"] * 2
    assert turns == warm_up + ["ours", "peer", "peer", "ours"] * 2


def test_the_figures_are_medians_of_one_call_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SAMPLE_S", 0.0)
    now_s = [0.0]
    steps_s = iter([9.0, 9.0, 3.0, 1.0, 2.0])  # two to warm up

    def work() -> None:
        now_s[0] += next(steps_s)

    measured = against_limit(work, limit=5.0, scale=0.5, rounds=3, clock=lambda: now_s[0])
    assert measured == Measured(ours=1000.0, peer=5.0, spread=0.25)


def test_the_spread_is_half_the_quartiles_distance_over_the_median() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 3)
    assert spread([7.0]) == 0


def test_the_masks_are_ordinary() -> None:
    mask = blob_mask(512, seed=0)
    assert mask.shape == (512, 512)
    assert 0.1 < mask.mean() < 0.4
    assert np.array_equal(mask, blob_mask(512, seed=0))


def test_the_command_lists_the_rows_of_the_issue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--list"])
    main()
    listed = {line.split()[1] for line in capsys.readouterr().out.splitlines()}
    sizes = [f"brush_{way}_{side}" for way in ("encode", "decode") for side in (512, 1024)]
    maps = {"maps_per_mpx", "maps_vs_baal", "maps_vs_skactiveml", "judge_100", "select_200"}
    assert listed >= {*maps, *sizes}
