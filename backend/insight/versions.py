"""The versions that there have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.insight.read_model import Json, to_json
from backend.ledger import Project, Version
from backend.ledger.shapes import Metrics
from backend.rounds.retention import in_use, removed_on_purpose
from backend.workplace import Workplace


@dataclass(frozen=True)
class VersionEntry:
    """One version of one project.

    Attributes:
        project: Label Studio's number.
        state: promoted, kept (made but not better) or withdrawn (rolled back).
        metrics: as the ledger has them.
        created: unix seconds.
        files: name to checksum; {} where they are gone, ``removed`` if that was our own doing.
        folder: where the files are; an address in an object store, whose keys differ there.
        contact_sheet: an image to check the version by eye.
    """

    project: int
    version: int
    state: str
    reason: str
    members: int
    classes: Sequence[str]
    metrics: Metrics
    created: float
    files: Mapping[str, str]
    removed: bool
    folder: str | None
    contact_sheet: str | None

    def to_json(self) -> Json:
        found: Json = to_json(self)
        return found


def versions_of(work: Workplace, studio_id: int | None = None) -> list[VersionEntry]:
    """Every version of every project (or of one), newest first, with its files' checksums."""
    found = []
    for project in work.ledger.projects.all():
        if studio_id not in (None, project.studio_id):
            continue
        present = set(work.registry.versions(project.slug))
        used = in_use(work.ledger, project)
        for version in work.ledger.versions.all(project.id):
            removed = removed_on_purpose(version.number, present, *used)
            found.append(_entry(work, project, version, removed))
    return found


def _entry(work: Workplace, project: Project, version: Version, removed: bool) -> VersionEntry:
    from training.committee.folders import SHEET_FILE
    from training.committee.registry import UnknownVersion

    slug, number = project.slug, version.number
    try:
        files = work.registry.files(slug, number)
    except UnknownVersion:
        files = {}
    place = work.store.version_place(slug, number)
    return VersionEntry(
        project=project.studio_id,
        version=number,
        state=version.state,
        reason=version.reason,
        members=version.members,
        classes=version.classes,
        metrics=version.metrics,
        created=version.created_at,
        files=files,
        removed=removed,
        folder=place if files else None,
        contact_sheet=f"{place}/{SHEET_FILE}" if SHEET_FILE in files else None,
    )
