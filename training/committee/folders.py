"""Where a registry keeps what belongs to a project; brings no torch, so that a page can ask."""

from __future__ import annotations

import re
from pathlib import Path

from training.committee.checksums import VERSION_FILE
from training.errors import TrainingError

SHEET_FILE = "contact-sheet.png"

PREDICTED_FILE = "out-of-fold.zip"
"""What was predicted of the labelled images by members that never saw them."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class LinkInRegistry(TrainingError):
    """A folder of the registry is a link: it would be read, written and cleared up elsewhere."""


def may_be_project(name: str) -> bool:
    """Whether a folder can be a project's: others lie beside them, such as lost+found."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """A name that cannot lead out of its folder."""
    if not may_be_project(name):
        raise ValueError(f"expected a name of letters, digits, '.', '_' and '-', got {name!r}")
    return name


def project_folder(root: Path, project: str, name: str) -> Path:
    """A project's folder or file of this name.

    Raises:
        LinkInRegistry: it, or the project's folder, is a link: we would write and clear up
            wherever that leads.
    """
    home = root / checked_name(project)
    for path in (home, home / name):
        if path.is_symlink():
            raise LinkInRegistry(
                f"{path} is a link, and the registry follows none: put the files there, or "
                "set REGISTRY_URL to where they are"
            )
    return home / name


def version_numbers(root: Path, project: str) -> list[int]:
    """Numbers of the versions there are, ascending."""
    folder = project_folder(root, project, "versions")
    if not folder.exists():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdecimal() and (path / VERSION_FILE).exists()
    )
