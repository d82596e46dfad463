"""The versions that there have been."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.insight.status import describe_quality
from backend.ledger import Project, Version
from backend.rounds.retention import in_use, removed_on_purpose
from backend.workplace import Workplace

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]


def versions_of(work: Workplace, studio_id: int | None = None) -> list[Json]:
    """Every version of every project (or of one), newest first, with its files' checksums."""
    from training.committee.registry import UnknownVersion

    found = []
    for project in work.ledger.projects.all():
        if studio_id not in (None, project.studio_id):
            continue
        there = set(work.registry.versions(project.slug))
        used = in_use(work.ledger, project.id)
        for version in work.ledger.versions.all(project.id):
            slug, number = project.slug, version.number
            try:
                files = work.registry.files(slug, number)
            except UnknownVersion:
                files = {}
            folder = work.registry.version_path(slug, number) if files else None
            sheet = work.registry.sheet_path(slug, number)
            removed = removed_on_purpose(number, there, *used)
            found.append(_version(project, version, files, removed, folder, sheet))
    return found


def _version(
    project: Project,
    version: Version,
    files: dict[str, str],
    removed: bool,
    folder: Path | None,
    sheet: Path | None,
) -> Json:
    return {
        "project": project.studio_id,
        "version": version.number,
        "state": version.state,
        "reason": version.reason,
        "members": version.members,
        "classes": version.classes,
        "metrics": version.metrics,
        "created": version.created_at,
        "files": files,
        "removed": removed,
        "folder": None if folder is None else str(folder),
        "contact_sheet": None if sheet is None else str(sheet),
    }


def describe_versions(found: Sequence[Json]) -> str:
    """A few lines for each version."""
    if not found:
        return "No version yet: label at least two images and wait for a round."
    lines = []
    for version in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(version["created"]))
        quality = describe_quality(version["metrics"])
        quality += ", " if quality else ""
        lines.append(
            f"project {version['project']}  v{version['version']}  {version['state']:9} {made}  "
            f"{quality}{version['members']} members, "
            f"{_describe_files(version)}: {version['reason']}"
        )
        if version["folder"]:
            lines.append(f"    in {version['folder']}")
        if version["contact_sheet"]:
            lines.append(f"    to check by eye: {version['contact_sheet']}")
    return "\n".join(lines)


def _describe_files(version: Json) -> str:
    if version["files"]:
        return "files whole"
    return "files removed, as those of old versions are" if version["removed"] else "files missing"
