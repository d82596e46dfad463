"""A backup becomes the state of a fresh DATA_DIR.

Everything is copied into a folder beside its place and compared with its digest. Only then it is
moved there, the ledger last: a restore that is killed while it copies can be repeated. The umask of
the command line keeps others from reading it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.exc import IntegrityError

from backend.actions.backup import (
    LEDGER,
    BadBackup,
    Manifest,
    Report,
    SavedFile,
    describe_os_error,
    the_backup,
)
from backend.data_dir import announced_names, remember, remember_name
from backend.errors import BackendError
from backend.ledger import Ledger, upgrade
from backend.ledger.copying import copy_ledger
from backend.settings import Settings
from training.committee.removals import LOCK_FILE
from training.committee.store.copying import copy_registry
from training.committee.store.folder_store import FolderStore

STAGING = ".restoring"
_BLOCK = 2**20


class CannotRestore(BackendError):
    """DATA_DIR is not fresh, or cannot be written, or it is not clear what is meant."""


@dataclass(frozen=True)
class Restored:
    """What ``restore`` did.

    Attributes:
        label_studio_url: what the ledger's projects are of now.
        problems: a sentence for each version that was damaged when it was backed up, and is not in
            the object store.
    """

    folder: Path
    manifest: Manifest
    label_studio_url: str | None
    problems: Sequence[str] = ()


def restore(
    settings: Settings,
    target: Path,
    label_studio_url: str | None = None,
    report: Report = lambda _what: None,
) -> Restored:
    """Put the newest backup in ``target``, or the one that it is, into a fresh DATA_DIR.

    Args:
        settings: say where DATA_DIR, ledger and registry are here.
        label_studio_url: the address that the backup's Label Studio has here, if it is another.

    Raises:
        BadBackup: there is none, or it is damaged.
        CannotRestore: nothing was changed.
        LedgerUnavailable: LEDGER_URL names a PostgreSQL that cannot be written, or holds other
            data; the rest was not changed.
        StoreUnavailable, VersionTaken: likewise of an object store that REGISTRY_URL names.
    """
    folder = the_backup(target)
    manifest = Manifest.read(folder)
    _check_fresh(settings)
    url = _label_studio_url(settings, manifest, label_studio_url)
    registry = settings.registry_path or settings.data_dir / STAGING / "registry"
    places = {
        "data": settings.data_dir,
        "registry": registry,
        LEDGER: _ledger_file(settings).parent,
    }
    problems: Sequence[str] = ()
    stagings = [place / STAGING for place in dict.fromkeys(places.values())]
    try:
        for staging in stagings:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        for done, (name, saved) in enumerate(manifest.files.items()):
            report(f"Restoring: {done} of {len(manifest.files)} files")
            kind, _, below = name.partition("/")
            if kind not in places:
                raise BadBackup(f"{folder / name} is nothing that is known here: use another.")
            below = below or _ledger_file(settings).name
            _copy(folder / name, places[kind] / STAGING / below, saved)
        if url != manifest.label_studio_url:
            _move(settings, manifest, str(url))
        if settings.ledger_path is None:
            # First: where that is interrupted, DATA_DIR is still fresh, and both begin again.
            staged = f"sqlite:///{_staged_ledger(settings)}"
            upgrade(staged)
            copy_ledger(staged, settings.ledger_url, report, in_use=True)
        if settings.registry_path is None:
            problems = copy_registry(
                FolderStore(registry / STAGING),
                settings.store(),
                lambda what, done, total: report(f"{what}: {done} of {total}"),
            ).problems
            shutil.rmtree(registry)
            stagings.remove(registry / STAGING)
        _into_place(settings, stagings)
    except OSError as error:
        raise CannotRestore(
            f"The backup was not restored ({describe_os_error(error, settings.data_dir)}). Correct "
            "that and run it again."
        ) from error
    finally:
        for staging in stagings:
            shutil.rmtree(staging, ignore_errors=True)
    return Restored(folder, manifest, url, problems)


def _check_fresh(settings: Settings) -> None:
    """Refuse to mix two states. Passwords alone are none: reading the settings makes them."""
    for root in (settings.data_dir, settings.registry_path, _ledger_file(settings)):
        for path in () if root is None else _files(root):
            if path != settings.data_dir / "secrets.json" and path.name != LOCK_FILE:
                raise CannotRestore(
                    f"DATA_DIR must be fresh to restore into, and there is {path}: set DATA_DIR "
                    "to a new folder (and REGISTRY_URL and LEDGER_URL, if you set them)."
                )


def _ledger_file(settings: Settings) -> Path:
    """Where the ledger's file shall be; one for PostgreSQL is there only until it is copied."""
    return settings.ledger_path or settings.data_dir / LEDGER


def _staged_ledger(settings: Settings) -> Path:
    file = _ledger_file(settings)
    return file.parent / STAGING / file.name


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for path in root.rglob("*"):
        if not path.is_dir() and STAGING not in path.relative_to(root).parts:
            yield path


def _label_studio_url(settings: Settings, manifest: Manifest, given: str | None) -> str | None:
    """The address of the projects' Label Studio from now on; a doubt is asked about."""
    then, here = manifest.label_studio_url, settings.label_studio_url
    if given is None and None not in (then, here) and then != here:
        raise CannotRestore(
            f"The backup's projects are of the Label Studio at {then}, and LABEL_STUDIO_URL is "
            f"{here}. If that is the same Label Studio under another address, add "
            f"--label-studio-url {here}; if not, add --label-studio-url {then}."
        )
    if given is not None and then is None:
        raise CannotRestore("The backup knows no Label Studio: leave --label-studio-url out.")
    if given is not None and manifest.own_studio and urlsplit(given).port is None:
        raise CannotRestore(f"The local Label Studio needs a port: --label-studio-url {given}:8080")
    return then if given is None else given


def _copy(source: Path, target: Path, saved: SavedFile) -> None:
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        reader = source.open("rb")
    except OSError as error:
        raise BadBackup(
            f"{source} cannot be read ({error.strerror}): use another backup."
        ) from error
    with reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            digest.update(block)
            writer.write(block)
    if digest.hexdigest() != saved.sha256:
        raise BadBackup(f"{source} is not what was saved, so nothing is restored: use another.")
    # The next backup into the same folder then links what it has.
    os.utime(target, ns=(saved.mtime_ns, saved.mtime_ns))


def _move(settings: Settings, manifest: Manifest, url: str) -> None:
    """The same Label Studio has the address ``url`` here."""
    then = str(manifest.label_studio_url)
    ledger = Ledger(f"sqlite:///{_staged_ledger(settings)}")
    try:
        ledger.projects.move(then, url)
    except IntegrityError as error:
        raise CannotRestore(
            f"The ledger knows projects both of {then} and of {url}, and some are the same: they "
            f"cannot become one. Restore with --label-studio-url {then}."
        ) from error
    finally:
        ledger.close()
    data = settings.data_dir / STAGING
    # Uploads go on carrying the names that it had.
    for name in (*reversed(announced_names(data, then)), then):
        remember_name(data, url, name)
    if manifest.own_studio:
        remember(data, label_studio_url=url)


def _into_place(settings: Settings, stagings: list[Path]) -> None:
    os.sync()
    ledger = _staged_ledger(settings)
    found = [path for staging in stagings for path in sorted(staging.iterdir()) if path != ledger]
    if settings.ledger_path is not None:
        found.append(ledger)
    for path in found:
        place = path.parent.parent / path.name
        path.rename(place)
