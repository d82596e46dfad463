"""Checks of the rounds and events so far."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from backend.insight.findings.case import ProjectCase
from backend.insight.findings.finding import Finding

EVENT_LATE_S = 120.0
"""A webhook comes within a second of its annotation; the clocks may differ by a minute."""


def check_rounds(case: ProjectCase) -> Iterator[Finding]:
    """What went wrong in the last rounds, and whether it keeps going wrong."""
    known = case.known
    if known is None:
        return
    if known.paused:
        what = "Rounds are paused: labels are counted, nothing trains."
        yield case.warning("paused", what, f"`python -m backend resume --project {case.id}`.")
    if known.last_error and known.failures > 1:
        yield case.error(
            "round-failing",
            f"Rounds failed {known.failures} times in a row; the last error: {known.last_error}",
            f"Correct what it names, then `python -m backend retrain --project {case.id}`.",
        )
    elif known.last_error:
        yield case.warning(
            "last-error", str(known.last_error), "It is tried again by itself; watch `status`."
        )
    last = case.work.ledger.rounds.last(known.id)
    if last is not None and last.problems:
        more = len(last.problems) - 1
        yield case.warning(
            "round-problems",
            f"The last round left something out: {last.problems[0]}"
            + (f" (and {more} more)" if more else ""),
            "`python -m backend status --json` lists all of it.",
        )


def check_events(case: ProjectCase) -> Iterator[Finding]:
    """Labels that no webhook reported."""
    if case.known is None:
        return
    last_event_at = case.work.ledger.events.last_at(case.known.id)
    times = [
        datetime.fromisoformat(stamp.updated_at).timestamp()
        for stamps in case.stamps.values()
        for stamp in stamps
    ]
    if last_event_at is None or not times:
        return
    late_s = max(times) - last_event_at
    if late_s < EVENT_LATE_S:
        return
    yield case.warning(
        "events-lost",
        f"The newest annotation is {late_s:.0f} s younger than the last event that "
        "came: webhooks get lost, and Label Studio never repeats one.",
        "No label is lost, the check every two minutes finds it. See the webhook's and the web's "
        "findings for the cause.",
    )
