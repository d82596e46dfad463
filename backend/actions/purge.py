"""Removes all that we hold of a project, for good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backend.data_dir import clicks_folder, registry_cache
from backend.errors import BadRequest
from backend.ledger import Ledger, Project
from backend.settings import Settings
from backend.workplace import Workplace
from training.committee.removals import RemovalsHeld


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
    with _removing(f"{work.store.url}/{slug}"):
        work.store.drop_project(slug)
    clicks = clicks_folder(work.settings.data_dir) / slug
    with _removing(clicks), suppress(FileNotFoundError):
        shutil.rmtree(clicks)


def remove_strays(settings: Settings, ledger: Ledger) -> None:
    """Remove what this host keeps, for smart clicks and of an object store, of projects that were
    purged on another one.

    Raises:
        BadRequest: not all of it could be removed.
        LedgerUnavailable: nothing was.
    """
    caches = (clicks_folder(settings.data_dir), *registry_cache(settings.data_dir).glob("*"))
    kept = [path for cache in caches for path in cache.glob("*")]
    known = {project.slug for project in ledger.projects.all()} if kept else set()
    for stray in kept:
        if stray.name not in known:
            with _removing(stray), suppress(FileNotFoundError):
                shutil.rmtree(stray)


@contextmanager
def _removing(folder: Path | str) -> Iterator[None]:
    try:
        yield
    except RemovalsHeld as error:
        raise BadRequest(
            f"Nothing was removed: {error}. Run the same command again when it has ended."
        ) from error
    except OSError as error:
        raise BadRequest(
            f"Not all of {folder} could be removed ({error.strerror}). Some of the project's "
            "files are still there: correct that, and run the same command again."
        ) from error
