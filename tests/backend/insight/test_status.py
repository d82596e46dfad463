"""What a version's numbers are called."""

from __future__ import annotations

from backend.insight.status import describe_quality, quality


def test_what_a_version_is_worth_is_told_in_words() -> None:
    metrics = {
        "foreground_dice": 0.8123,
        "ece": 0.0121,
        "ece_uncalibrated": 0.034,
        "temperature": 1.4,
        "out_of_fold": True,
    }
    said = "out-of-fold foreground Dice 0.812, calibration error 0.012 (0.034 before)"
    assert describe_quality(metrics) == said
    assert describe_quality({}) == ""
    assert quality(metrics)["temperature"] == 1.4
    assert quality(metrics)["iou"] is None
