"""What to do next in a project, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from backend.ledger import Project

Urgency = Literal["problem", "running", "advice", "label"]

STAGE_WORDS: Mapping[str, str] = {
    "collect": "reading the labels",
    "judge": "comparing itself with the corrections",
    "fit": "training",
    "assemble": "checking the new version",
    "choose": "choosing images",
    "score": "predicting images",
    "publish": "publishing the queue",
}

_ROUND_WORDS: Mapping[str, str] = {
    "train": "learns from the labels",
    "rank": "orders the images anew",
    "start": "orders the images for the first time",
}


@dataclass(frozen=True)
class NextStep:
    """What to do.

    Attributes:
        urgency: a problem keeps the loop from working; "running" means that nothing is to be done
            but to go on labelling; advice is worth a thought; else labels are what is missing.
    """

    urgency: Urgency
    sentence: str


@dataclass(frozen=True)
class RoundFacts:
    """What counts here of a round; ``stage`` None if it has ended."""

    id: int
    kind: str
    stage: str | None
    eta_s: float | None


def next_step(
    project: Project,
    last: RoundFacts | None,
    *,
    retrain_every: int,
    workers: int | None = None,
    advice: str | None = None,
) -> NextStep:
    """What to do next in a project; the most urgent thing alone.

    Args:
        last: the round under way, or the last one.
        retrain_every: changed labels that start a round.
        workers: how many are alive; None where nobody has counted them.
        advice: of the version that ranks.
    """
    number = project.studio_id
    if not project.connected:
        why = f" ({project.last_error})" if project.last_error else ""
        fix = f"`python -m backend connect --project {number}` connects it."
        return NextStep("problem", f"This project is not connected{why}: {fix}")
    if workers == 0:
        return NextStep(
            "problem",
            "No worker is alive, so nothing trains and nothing is ranked: start `make run` or "
            "`python -m backend worker`.",
        )
    if last is not None and last.stage is not None:
        left = "" if last.eta_s is None else f", {duration(last.eta_s)} left"
        doing = f"{STAGE_WORDS[last.stage]} now{left}"
        sentence = (
            f"Round {last.id} {_ROUND_WORDS[last.kind]} ({doing}): go on labelling meanwhile."
        )
        return NextStep("running", sentence)
    if project.last_error:
        if project.failures:
            return NextStep("problem", f"Training fails because of this: {project.last_error}")
        return NextStep("problem", project.last_error)
    if project.paused:
        return NextStep("advice", "Rounds are paused: labels are kept, and nothing trains.")
    if advice is not None:
        return NextStep("advice", f"{advice[0].upper()}{advice[1:]}")
    return NextStep("label", _labels_wanted(project, retrain_every))


def _labels_wanted(project: Project, retrain_every: int) -> str:
    wanted = retrain_every - project.changed
    if wanted <= 0:
        return "Enough labels have changed: a round starts within a minute or two."
    what = "images" if project.labelled == 0 else "more image" + ("" if wanted == 1 else "s")
    first = "the first round" if project.labelled == 0 else "the next round"
    return f"Label {wanted} {what}, and {first} starts."


def duration(seconds: float) -> str:
    """``about 40 s``, ``about 3 min``, ``about 2 h``."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
