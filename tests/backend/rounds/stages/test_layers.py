"""Which places get an uncertainty layer, and what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson
import pytest

from backend.rounds.ranking import Ranked
from backend.rounds.stages import layers
from backend.rounds.stages.layers import describe_hesitation, with_layers
from backend.rounds.stages.shards import Scored
from training.committee.hesitation import Hesitation

GRID = np.full((2, 3), 255, np.uint8)
FOUND = Hesitation((20, 30), GRID, (0, 2), (("Cell", 0.54), ("background", 0.3)))
CELL = {"type": "brushlabels", "id": "cell"}


def scored_as(count: int) -> dict[int, Scored]:
    results = [orjson.dumps([CELL]), b"[]"]
    return {n: Scored(arms={}, result=results[n % 2], hesitation=FOUND) for n in range(count)}


def layered(scored: dict[int, Scored], *whys: str) -> list[list[str]]:
    places = [Ranked(n, 0.5, why) for n, why in enumerate(whys)]
    sent = with_layers(places, scored, "image")
    return [[part["id"] for part in orjson.loads(sent[n].result)] for n in range(len(whys))]


def test_what_is_asked_for_a_reason_gets_a_layer_and_nothing_else_does() -> None:
    whys = ("uncertainty", "class", "group", "audit", "chance", "blurred")
    got = layered(scored_as(6), *whys)
    layer = "committee-unsure"
    assert got == [[layer, "cell"], [layer], [layer, "cell"], [], ["cell"], []]


def test_the_first_places_alone_get_one_and_none_where_nothing_is_unsure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "LAYERS", 2)
    scored = scored_as(3)
    scored[1] = replace(scored[1], hesitation=None)
    assert layered(scored, *["uncertainty"] * 3) == [["committee-unsure", "cell"], [], ["cell"]]


def test_a_request_that_a_layer_would_make_too_large_goes_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "LARGEST_RESULT", 100)
    assert layered(scored_as(1), "uncertainty") == [["cell"]]


def test_a_sentence_says_why_and_what_to_check() -> None:
    assert describe_hesitation("uncertainty", FOUND) == (
        "Asked because the committee is unsure of it; check the upper right of the image first, "
        "where the committee hesitates between Cell (54%) and background (30%)."
    )
