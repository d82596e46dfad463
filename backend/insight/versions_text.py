"""The versions for a person at a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from backend.insight.status import quality
from backend.insight.status_text import describe_groups, describe_quality
from backend.insight.versions import VersionEntry
from backend.rounds.elsewhere import describe_start


def describe_versions(found: Sequence[VersionEntry]) -> str:
    """A few lines for each version."""
    if not found:
        return "No version yet: label at least two images and wait for a round."
    return "\n".join(line for version in found for line in _describe_version(version))


def _describe_version(version: VersionEntry) -> list[str]:
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created))
    measured = describe_quality(quality(version.metrics))
    facts = [*filter(None, [measured]), f"{version.members} members", _describe_files(version)]
    lines = [
        f"project {version.project}  v{version.version}  {version.state:9} {made}  "
        f"{', '.join(facts)}: {version.reason}"
    ]
    if said := describe_start(version.metrics):
        lines.append(f"    {said}")
    lines += [f"    group {said}" for said in describe_groups(version.metrics.get("groups", {}))]
    if version.folder:
        lines.append(f"    in {version.folder}")
    if version.contact_sheet:
        lines.append(f"    to check by eye: {version.contact_sheet}")
    return lines


def _describe_files(version: VersionEntry) -> str:
    if version.files:
        return "files whole"
    return "files removed, as those of old versions are" if version.removed else "files missing"
