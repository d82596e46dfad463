"""Removes all that we hold of a project, for good."""

from __future__ import annotations

import shutil
from pathlib import Path

from backend.click_cache import clicks_folder
from backend.errors import BadRequest
from backend.ledger import Ledger, Project
from backend.settings import Settings
from backend.workplace import Workplace
from training.committee.removals import may_remove


def purge_project(work: Workplace, row: Project) -> None:
    """Remove a project's files, and then what the ledger knows of it.

    Raises:
        BadRequest: the files are not all gone; the ledger still knows the project, so that it can
            be asked for again.
    """
    remove_files(work, row.slug)
    work.ledger.projects.forget(row.id)


def remove_files_if_purged(work: Workplace, row: Project) -> None:
    """What a job that was under way wrote after its project was purged goes too."""
    # By its slug: SQLite gives a number anew.
    if all(project.slug != row.slug for project in work.ledger.projects.all()):
        remove_files(work, row.slug)


def remove_files(work: Workplace, slug: str) -> None:
    """Remove a project's folder of the registry, and what smart clicks kept of its images.

    Raises:
        BadRequest: not all of it could be removed, or a backup is reading it.
    """
    folder = work.settings.registry_path / slug
    if folder.exists():
        with may_remove(folder.parent) as now:
            if not now:
                raise BadRequest(
                    f"Nothing was removed: a backup of {folder.parent} is being made. "
                    "Run the same command again when it has ended."
                )
            _remove(folder)
    _remove(clicks_folder(work.settings.data_dir) / slug)


def remove_strays(settings: Settings, ledger: Ledger) -> None:
    """Remove what smart clicks kept on this host of projects that were purged on another one.

    Raises:
        BadRequest: not all of it could be removed.
        LedgerUnavailable: nothing was.
    """
    folder = clicks_folder(settings.data_dir)
    kept = list(folder.iterdir()) if folder.exists() else []
    known = {project.slug for project in ledger.projects.all()} if kept else set()
    for stray in kept:
        if stray.name not in known:
            _remove(stray)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass  # nothing was kept, or it is gone
    except OSError as error:
        raise BadRequest(
            f"Not all of {folder} could be removed ({error.strerror}). Some of the project's "
            "files are still there: correct that, and run the same command again."
        ) from error
