"""How long a round still takes, by the rounds before it, and how far off that usually is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from backend.ledger.shapes import RoundKind, Stage
from backend.rounds.schedule import STAGES

LIKE_ROUNDS = 3
"""Newest rounds whose median is expected of a stage: an older one had fewer labels."""

TESTED_ROUNDS = 12
"""Newest rounds by which the estimates are tested."""

FEWEST_TESTS = 3
"""Rounds that were estimated by others before their typical error is told."""

FIRST_PROGRESS = 0.02
"""Below this share of a stage its pace is no measure."""

Timings = Mapping[str, float]


def time_left(
    kind: RoundKind, stage: Stage, progress: float, elapsed_s: float, former: Sequence[Timings]
) -> tuple[float | None, float | None]:
    """Seconds to a round's end, and the median share by which such estimates were off.

    Args:
        stage: where it is, ``elapsed_s`` after the stage began and ``progress`` (0 to 1) into it.
        former: seconds of each stage of good rounds of this kind, newest first.

    Returns:
        None for the seconds where there is nothing to judge by, and for the share where there are
        too few rounds to test with: no number is made up.
    """
    stages = STAGES[kind]
    following = stages[stages.index(stage) + 1 :]
    expected = {name: _expected(name, former) for name in (stage, *following)}
    usual = expected[stage]
    if progress > FIRST_PROGRESS:
        this_stage = elapsed_s * (1.0 - progress) / progress
    elif usual is not None:
        this_stage = max(0.0, usual - elapsed_s)
    else:
        return None, None
    rest = [expected[name] for name in following]
    if any(seconds is None for seconds in rest):
        return None, None
    total = this_stage + sum(seconds for seconds in rest if seconds is not None)
    return round(total, 1), typical_error(kind, former)


def typical_error(kind: RoundKind, former: Sequence[Timings]) -> float | None:
    """The median of |estimated - taken| / taken, each round estimated by those before it."""
    errors = []
    for place, taken in enumerate(former):
        expected = [_expected(stage, former[place + 1 :]) for stage in STAGES[kind]]
        seconds = [taken.get(stage) for stage in STAGES[kind]]
        told = [each for each in expected if each is not None]
        known = [each for each in seconds if each is not None]
        if len(told) == len(known) == len(expected) and sum(known) > 0:
            errors.append(abs(sum(told) - sum(known)) / sum(known))
    return statistics.median(errors) if len(errors) >= FEWEST_TESTS else None


def _expected(stage: str, former: Sequence[Timings]) -> float | None:
    taken = [timings[stage] for timings in former if stage in timings][:LIKE_ROUNDS]
    return statistics.median(taken) if taken else None
