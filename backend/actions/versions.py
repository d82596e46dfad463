"""Going back to an earlier version, or on to one that was kept back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.actions.projects import connected_project
from backend.errors import BadRequest
from backend.ledger import Project
from backend.rounds.retention import KEEP_EARLIER, in_use
from backend.workplace import Workplace


@dataclass(frozen=True)
class RolledBack:
    """What ``roll_back`` did.

    Attributes:
        version: the version that ranks and pre-annotates now.
        withdrawn: the promoted versions after it, which no longer count.
    """

    version: int
    withdrawn: tuple[int, ...]


def roll_back(work: Workplace, studio_id: int, number: int | None = None) -> RolledBack:
    """Withdraw the versions after ``number`` and rank the pool by it again.

    Args:
        studio_id: Label Studio's project number.
        number: the version to go back to; None: the promoted one before the present.

    Raises:
        BadRequest: the project is not connected, there is no such version, its files are removed,
            or a round is under way.
    """
    project = connected_project(work, studio_id)
    all_versions = work.ledger.versions.all(project.id)
    promoted = [v.number for v in all_versions if v.state == "promoted"]
    if number is None:
        if len(promoted) < 2:
            raise BadRequest(
                f"Project {studio_id} has no earlier promoted version to go back to "
                f"(promoted: {promoted or 'none'}); name one by --to."
            )
        number = promoted[1]
    _check_usable(work, project, number, [v.number for v in all_versions])
    reason = f"rolled back to version {number}"
    withdrawn = tuple(later for later in promoted if later > number)
    for later in withdrawn:
        work.ledger.versions.set_state(project.id, later, "withdrawn", reason)
    _use(work, project, number, reason)
    return RolledBack(number, withdrawn)


def promote(work: Workplace, studio_id: int, number: int) -> None:
    """Rank the pool by a version that was kept back or withdrawn, and is newer than the present.

    Args:
        studio_id: Label Studio's project number.

    Raises:
        BadRequest: as for ``roll_back``; or the version is in use, or older than the one that is.
    """
    project = connected_project(work, studio_id)
    present = max(work.ledger.versions.promoted_numbers(project.id), default=None)
    if present is not None and number <= present:
        said = "is in use already" if number == present else f"is older than {present}, in use now"
        raise BadRequest(f"Version {number} {said}: roll back to an older one instead.")
    _check_usable(work, project, number, work.ledger.versions.numbers(project.id)[::-1])
    _use(work, project, number, f"version {number} was promoted by hand")


def _check_usable(work: Workplace, project: Project, number: int, known: Sequence[int]) -> None:
    """Refuse a version that cannot rank now."""
    studio_id = project.studio_id
    if number not in known:
        shown = ", ".join(map(str, known)) or "none"
        raise BadRequest(f"Project {studio_id} has no version {number} (it has: {shown}).")
    kept = work.store.versions(project.slug)
    if number not in kept:
        *_, keep = in_use(work.ledger, project)
        raise BadRequest(
            f"The files of version {number} of project {studio_id} are not there any more: the "
            f"newest {keep} versions are kept, and the {KEEP_EARLIER} promoted before the "
            f"one that serves. Go back to one of {', '.join(map(str, kept)) or 'none'}."
        )
    active = work.ledger.rounds.active(project.id)
    if active is not None:
        raise BadRequest(
            f"Round {active.id} is under way: try again when it has ended, or it would "
            "publish the version that you leave."
        )


def _use(work: Workplace, project: Project, number: int, reason: str) -> None:
    work.ledger.versions.set_state(project.id, number, "promoted", "chosen by hand")
    work.ledger.rounds.start(project.id, "rank", reason, "choose", {})
