"""Which version predicts while the right one's files are damaged, or an object store that has them
is away: the newest promoted version before it whose files are whole. Nothing is written, so a
restored folder is used again at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from backend.ledger import Ledger, Project
from backend.workplace import Workplace
from training.committee.checksums import DamagedVersion, UnknownVersion, check_files
from training.committee.store.store import StoreUnavailable, read_whole

if TYPE_CHECKING:
    from training.committee.committee import Committee

log = logging.getLogger(__name__)

DAMAGE = (DamagedVersion, UnknownVersion)
"""Files that are not what was saved, or not there; every other error has another cause, which
an earlier version would have as well."""


def damage_of(work: Workplace, project: Project, number: int) -> str | None:
    """What is wrong with a version's files, as a sentence; None if they are what was saved.

    Raises:
        StoreUnavailable: they are in an object store that is away, and not on this host.
    """
    try:
        read_whole(work.store, project.slug, number, check_files)
    except DAMAGE as error:
        return str(error)
    return None


def whole_version(work: Workplace, project: Project, number: int) -> int | None:
    """The newest version up to ``number`` that can predict; None where none is whole."""
    candidates = (number, *_earlier(work.ledger, project.id, number))
    return next((n for n in candidates if damage_of(work, project, n) is None), None)


def describe_damage(number: int, damage: str, instead: int | None) -> str:
    """What a damaged version means, for ``status`` and the doctor."""
    instead_text = (
        "no new image is predicted" if instead is None else f"version {instead} predicts new images"
    )
    return f"Version {number} is damaged, so {instead_text} until a round makes another: {damage}."


def load_whole(work: Workplace, project: Project, number: int) -> Committee:
    """A version, or the newest whole promoted one before it.

    Raises:
        UnknownVersion, DamagedVersion, StoreUnavailable: neither is whole, or on this host while
            the object store is away; what was wrong with ``number``.
        TrainingError: it cannot be run here, whole as it is.
    """
    try:
        return work.registry.load(project.slug, number)
    except (*DAMAGE, StoreUnavailable) as error:
        for earlier in _earlier(work.ledger, project.id, number):
            try:
                committee = work.registry.load(project.slug, earlier)
            except (*DAMAGE, StoreUnavailable):
                continue
            log.warning("version %d predicts instead of %d: %s", earlier, number, error)
            work.counters.add("fallbacks", project.slug)
            return committee
        raise


def _earlier(ledger: Ledger, project_id: int, number: int) -> list[int]:
    """Numbers of the promoted versions before this one, newest first."""
    return [
        version.number
        for version in ledger.versions.all(project_id)
        if version.state == "promoted" and version.number < number
    ]
