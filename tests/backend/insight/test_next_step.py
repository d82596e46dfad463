"""What to do next: the most urgent thing, in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from backend.insight.next_step import RoundFacts, duration, next_step
from tests.backend.rows import project

FITS = RoundFacts(3, "train", "fit", 121.0)
ENDED = RoundFacts(3, "train", None, None)


@pytest.mark.parametrize(
    ("fields", "given", "urgency", "words"),
    [
        ({"connected": False, "last_error": "Gone."}, {}, "problem", "not connected (Gone.)"),
        ({}, {"workers": 0, "last": FITS}, "problem", "No worker is alive"),
        ({"last_error": "x"}, {"last": FITS}, "running", "(training now, about 2 min left)"),
        ({"last_error": "No disk.", "failures": 2}, {}, "problem", "because of this: No disk."),
        ({"last_error": "No disk."}, {"last": ENDED}, "problem", "No disk."),
        ({"paused": True}, {"advice": "stop"}, "advice", "Rounds are paused"),
        (
            {"changed": 2},
            {"advice": "more labels hardly pay."},
            "advice",
            "More labels hardly pay.",
        ),
        ({}, {}, "label", "Label 10 images, and the first round starts."),
        ({"labelled": 20, "changed": 6}, {}, "label", "Label 4 more images, and the next round"),
        ({"labelled": 20, "changed": 9}, {}, "label", "Label 1 more image, and the next round"),
        ({"labelled": 20, "changed": 12}, {}, "label", "a round starts within a minute or two"),
    ],
)
def test_the_most_urgent_thing_is_told(
    fields: dict[str, Any], given: dict[str, Any], urgency: str, words: str
) -> None:
    last = given.pop("last", None)
    found = next_step(project(**fields), last, retrain_every=10, **given)
    assert found.urgency == urgency
    assert words in found.sentence


def test_durations_are_round() -> None:
    shown = [duration(seconds) for seconds in (0, 42.4, 100, 3000, 9000)]
    assert shown == ["about 1 s", "about 42 s", "about 2 min", "about 50 min", "about 2.5 h"]
