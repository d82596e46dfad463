"""Asking for a round, pausing a project's rounds, resuming them."""

from __future__ import annotations

from dataclasses import dataclass

from backend.actions.projects import connected_project
from backend.workplace import Workplace


@dataclass(frozen=True)
class RoundAsked:
    """What ``retrain`` met.

    Attributes:
        active_round: the round that is under way, which the new one follows; None: it starts now.
        workers: how many worker processes are alive. With none the round waits for one.
    """

    active_round: int | None
    workers: int


def retrain(work: Workplace, studio_id: int) -> RoundAsked:
    """Ask for a training round, however few the new labels.

    Raises:
        UnknownProject, BadRequest: the project is not connected.
    """
    project = connected_project(work, studio_id)
    work.ledger.events.add(project.id, "RETRAIN")
    active = work.ledger.rounds.active(project.id)
    workers = [process for process in work.ledger.processes.all() if process.role == "worker"]
    return RoundAsked(None if active is None else active.id, len(workers))


def pause(work: Workplace, studio_id: int) -> None:
    """Start no more rounds by itself; START_TRAINING and ``retrain`` still do.

    Raises:
        UnknownProject: the project was never connected.
    """
    project = work.ledger.projects.of_studio(work.server, studio_id)
    work.ledger.projects.update(project.id, paused=True)


def resume(work: Workplace, studio_id: int) -> None:
    """End a pause, and a failed round's wait; what was labelled meanwhile counts.

    Raises:
        UnknownProject: the project was never connected.
    """
    project = work.ledger.projects.of_studio(work.server, studio_id)
    work.ledger.projects.update(project.id, paused=False, failures=0, not_before=0.0)
    work.ledger.events.add(project.id, "RESUMED")
