"""What a person may ask for by name, as a page's button does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backend.actions.rounds import pause, resume, retrain
from backend.actions.versions import promote, roll_back
from backend.errors import BadRequest
from backend.workplace import Workplace


@dataclass(frozen=True)
class NamedAction:
    """An action.

    Attributes:
        title: what a button says.
        effect: what comes of it, in a sentence, before it is done.
        run: takes Label Studio's project number and a version (None where the action has none);
            returns a sentence on what was done.
        of_version: whether it is done to a version.
    """

    title: str
    effect: str
    run: Callable[[Workplace, int, int | None], str]
    of_version: bool = False


def _retrain(work: Workplace, studio_id: int, _version: int | None) -> str:
    asked = retrain(work, studio_id)
    if not asked.workers:
        return "A round was asked for, and no worker is alive to run it."
    if asked.active_round is not None:
        return f"A round was asked for; it begins when round {asked.active_round} has ended."
    return "A round was asked for; it begins within seconds."


def _pause(work: Workplace, studio_id: int, _version: int | None) -> str:
    pause(work, studio_id)
    return "Rounds are paused."


def _resume(work: Workplace, studio_id: int, _version: int | None) -> str:
    resume(work, studio_id)
    return "Rounds start by themselves again."


def _roll_back(work: Workplace, studio_id: int, version: int | None) -> str:
    done = roll_back(work, studio_id, version)
    gone = ", ".join(str(number) for number in done.withdrawn)
    withdrawn = f" Withdrawn: {gone}." if gone else ""
    return f"Version {done.version} ranks again; a new queue is being made.{withdrawn}"


def _promote(work: Workplace, studio_id: int, version: int | None) -> str:
    if version is None:
        raise BadRequest("A version must be named to be promoted.")
    promote(work, studio_id, version)
    return f"Version {version} ranks now; a new queue is being made."


ACTIONS: Mapping[str, NamedAction] = {
    "retrain": NamedAction(
        "Train now",
        "A new version is trained from all labels there are, however few have changed.",
        _retrain,
    ),
    "pause": NamedAction(
        "Pause rounds",
        "No round starts by itself any more. Labels are kept, and the queue stays as it is.",
        _pause,
    ),
    "resume": NamedAction(
        "Resume rounds",
        "Rounds start by themselves again; what was labelled meanwhile counts.",
        _resume,
    ),
    "rollback": NamedAction(
        "Go back to this version",
        "The versions after it are withdrawn, and it orders the images anew. Its files and those "
        "of the others stay.",
        _roll_back,
        of_version=True,
    ),
    "promote": NamedAction(
        "Use this version",
        "It orders the images and pre-annotates from now on, although its own test did not find "
        "it good enough, or it was withdrawn.",
        _promote,
        of_version=True,
    ),
}
"""By the name that the record of actions keeps."""
