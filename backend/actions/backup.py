"""A backup of all that this installation would miss, taken while everything runs.

A backup is a folder of its own below the one that is named. Its manifest holds the digests of its
files and is written last. What has not changed is a hard link to the file of the backup before.

In order: Label Studio's database, so that our ledger knows no less than Label Studio does; the
ledger; then what both name, of which nothing is removed meanwhile. Jobs are not saved, since the
clock makes them anew from the ledger.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, mkdtemp
from typing import Self

from backend import __version__
from backend.data_dir import label_studio_folder, remembered
from backend.errors import BackendError
from backend.ledger.copying import copy_ledger
from backend.ledger.engine import copy_database
from backend.settings import Settings
from training.committee.compiled import COMPILED_FILES
from training.committee.removals import LOCK_FILE, removals_held
from training.files import write_durably

FORMAT = 1
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
STUDIO_DATABASE = "label_studio.sqlite3"
LEDGER = "ledger.sqlite3"

_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d{6}\.\d{6}Z")
_BLOCK = 2**20
_MOST_NAMED = 5
"""Files that a message names."""

Report = Callable[[str], None]


class CannotBackUp(BackendError):
    """Something cannot be read, or the backup cannot be written."""


class BadBackup(BackendError):
    """There is no whole backup, or a file of it is not what was saved."""


@dataclass(frozen=True)
class SavedFile:
    """A file of a backup: its SHA-256, its bytes, and when its source was last written."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    Attributes:
        left_out: links and other things that are no plain files, and a registry in an object store.
        installation: stands for the passwords of its DATA_DIR, without telling them.
        label_studio_url: the Label Studio that its projects are of; None before the first.
        own_studio: whether that is the one of `make run`, whose data are in the backup.
        files: path below the backup's folder to the file.
    """

    made_at: str
    release: str
    installation: str
    label_studio_url: str | None
    own_studio: bool
    left_out: list[str] = field(default_factory=list)
    files: dict[str, SavedFile] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of the backup in ``folder``.

        Raises:
            BadBackup: it is damaged, or of a newer release.
        """
        path = folder / MANIFEST
        try:
            found = json.loads(path.read_bytes())
            if found["format"] != FORMAT:
                raise BadBackup(
                    f"{folder} was made by release {found['release']}, in a form that this one "
                    f"({__version__}) does not know: install that release."
                )
            files = {name: SavedFile(**saved) for name, saved in found.pop("files").items()}
            manifest = cls(**found, files=files)
            if LEDGER not in files:
                raise ValueError("it names no ledger")
            if not all(abs(saved.mtime_ns) < 2**63 for saved in files.values()):
                raise ValueError("a time of a file is beyond all times")
        except (
            *(OSError, ValueError, KeyError, TypeError, AttributeError),
            *(RecursionError, OverflowError),
        ) as error:
            raise BadBackup(f"{path} cannot be read ({error}): use another backup.") from error
        for name in files:
            parts = PurePosixPath(name).parts
            # What follows two slashes would be absolute once the first part is taken off.
            if name != "/".join(parts) or ".." in parts or "\0" in name:
                raise BadBackup(f"{path} names {name!r}, which leads out of it: use another.")
        return manifest


@dataclass(frozen=True)
class BackedUp:
    """What ``back_up`` made: ``copied`` files were written, the others are links."""

    folder: Path
    manifest: Manifest
    copied: int
    copied_bytes: int


def back_up(settings: Settings, target: Path, report: Report = lambda _what: None) -> BackedUp:
    """Make a backup in a new folder below ``target``.

    Args:
        report: told what is being done.

    Raises:
        CannotBackUp: nothing of this backup is left; earlier ones are whole.
        LedgerUnavailable: neither is it then; the ledger's PostgreSQL cannot be read.
    """
    installation = settings.derived_key(b"backups").hex()[:16]
    _check(settings, target, installation)
    staging: Path | None = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _registry_held(settings):
            for left in target.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left)
            # Nobody else may enter it: it holds passwords and patients' images.
            staging = Path(mkdtemp(prefix=UNFINISHED, dir=target))
            writer = _Writer(staging, newest_backup(target), report)
            return _write(settings, target, writer, installation)
    except sqlite3.Error as error:
        raise CannotBackUp(_unfinished(target, str(error))) from error
    except OSError as error:
        raise CannotBackUp(_unfinished(target, describe_os_error(error, target))) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _registry_held(settings: Settings) -> Iterator[None]:
    """Nothing of the registry is removed while it is copied, and one backup is made at a time."""
    home = settings.registry_path or settings.data_dir
    home.mkdir(parents=True, exist_ok=True)
    with removals_held(home):
        yield


def _write(settings: Settings, target: Path, writer: _Writer, installation: str) -> BackedUp:
    studio = label_studio_folder(settings.data_dir)
    database = studio / STUDIO_DATABASE
    if database.exists():
        writer.database(database, f"data/{studio.name}/{database.name}")
    writer.ledger(settings, LEDGER)
    for path in sorted(settings.data_dir.glob("*.json")):
        if path.is_symlink() or not path.is_file():
            writer.left_out.append(str(path))
        else:
            writer.file(path, f"data/{path.name}")
    if settings.registry_path is None:
        writer.left_out.append(settings.registry_url)  # the bucket's own versioning keeps it
    else:
        writer.folder(settings.registry_path, "registry", _is_no_part_of_registry)
    writer.folder(studio, f"data/{studio.name}", lambda path: path.name.startswith(database.name))
    now = datetime.now(UTC)
    manifest = Manifest(
        made_at=now.isoformat(timespec="seconds"),
        release=__version__,
        installation=installation,
        label_studio_url=settings.label_studio_url,
        own_studio=settings.label_studio_url
        in (None, remembered(settings.data_dir).get("label_studio_url")),
        left_out=writer.left_out,
        files=writer.files,
    )
    writer.report("Writing to the disk")
    os.sync()  # once, and not for each file: all is there before the manifest says so
    write_durably(writer.root / MANIFEST, json.dumps(asdict(manifest)).encode())
    folder = target / now.strftime("%Y-%m-%dT%H%M%S.%fZ")
    writer.root.rename(folder)
    return BackedUp(folder, manifest, writer.copied, writer.copied_bytes)


def _is_no_part_of_registry(path: Path) -> bool:
    """What is being written, or is made anew where it is missing: by far the largest files."""
    return path.name.startswith(".") or path.match(COMPILED_FILES)


class _Writer:
    """Fills the folder of a backup that is being made."""

    def __init__(self, root: Path, former: Path | None, report: Report) -> None:
        self.root, self.report = root, report
        self.files: dict[str, SavedFile] = {}
        self.left_out: list[str] = []
        self.copied = self.copied_bytes = 0
        self._former = former
        self._known = {} if former is None else Manifest.read(former).files

    def database(self, source: Path, name: str) -> None:
        """Copy a SQLite database that is in use."""
        self.report(f"Copying {source.name}")
        target = self._place(name)
        try:
            copy_database(source, target)
        except sqlite3.Error as error:
            raise sqlite3.Error(f"{source}: {error}") from error
        with target.open("rb") as copy:
            digest = hashlib.file_digest(copy, "sha256").hexdigest()
        self._note(name, SavedFile(digest, target.stat().st_size, target.stat().st_mtime_ns))

    def ledger(self, settings: Settings, name: str) -> None:
        """Copy the ledger; one on PostgreSQL becomes a SQLite database, too."""
        if settings.ledger_path is not None:
            self.database(settings.ledger_path, name)
            return
        with TemporaryDirectory(dir=self.root) as folder:
            file = Path(folder) / name
            copy_ledger(settings.ledger_url, f"sqlite:///{file}", self.report, in_use=True)
            self.database(file, name)

    def folder(self, source: Path, name: str, skip: Callable[[Path], bool]) -> None:
        """Save all plain files below a folder, but for those that ``skip`` names."""
        for path in self._below(source, skip):
            self.file(path, f"{name}/{path.relative_to(source).as_posix()}")

    def file(self, source: Path, name: str) -> None:
        """Save one file; nothing if it has gone meanwhile."""
        try:
            handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with os.fdopen(handle, "rb") as reader:
            found = os.fstat(handle)
            target = self._place(name)
            if self._linked(name, target, found):
                return
            digest = hashlib.sha256()
            with target.open("xb") as writer:
                while block := reader.read(_BLOCK):
                    digest.update(block)
                    writer.write(block)
                size = writer.tell()
        self._note(name, SavedFile(digest.hexdigest(), size, found.st_mtime_ns))

    def _linked(self, name: str, target: Path, found: os.stat_result) -> bool:
        """Whether the file of the backup before, being the same, stands here now."""
        known = self._known.get(name)
        if known is None or (known.size, known.mtime_ns) != (found.st_size, found.st_mtime_ns):
            return False
        assert self._former is not None
        try:
            target.hardlink_to(self._former / name)
        except OSError:  # the disk knows no links, or no more of this one: copied again
            return False
        self.files[name] = known
        return True

    def _note(self, name: str, saved: SavedFile) -> None:
        self.files[name] = saved
        self.copied += 1
        self.copied_bytes += saved.size
        self.report(f"{self.copied} files copied, {self.copied_bytes / 1e6:.0f} MB")

    def _place(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _below(self, folder: Path, skip: Callable[[Path], bool]) -> Iterator[Path]:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return  # removed meanwhile, or never there
        for entry in found:
            path = folder / entry.name
            if skip(path) or path.name == LOCK_FILE:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(path, skip)
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                self.left_out.append(str(path))


def newest_backup(target: Path) -> Path | None:
    """The newest whole backup in ``target``, or ``target`` if it is one itself; None: there is
    none."""
    if (target / MANIFEST).exists():
        return target
    return max(all_backups(target), default=None)


def all_backups(target: Path) -> list[Path]:
    """The whole backups in ``target``, oldest first."""
    return sorted(path for path in target.glob("*Z") if _NAME.fullmatch(path.name))


def remove_older(target: Path, keep: int) -> int:
    """Remove all but the ``keep`` newest backups in ``target``; returns how many went.

    Raises:
        CannotBackUp: one cannot be removed.
    """
    old = all_backups(target)[:-keep]
    for folder in old:
        try:
            # Under another name first: a backup is whole or no backup.
            doomed = folder.rename(target / f"{UNFINISHED}{folder.name}")
            shutil.rmtree(doomed)
        except OSError as error:
            raise CannotBackUp(
                f"The backup {folder} cannot be removed ({error.strerror}): remove it yourself."
            ) from error
    return len(old)


def the_backup(target: Path) -> Path:
    """As ``newest_backup``.

    Raises:
        BadBackup: there is none.
    """
    found = newest_backup(target)
    if found is None:
        raise BadBackup(
            f"{target} holds no whole backup: name the folder that was given to `backup`, or one "
            "of those in it."
        )
    return found


def verify(folder: Path, report: Report = lambda _what: None) -> Manifest:
    """Read the backup in ``folder`` and compare every file with its digest.

    Raises:
        BadBackup: a file is missing or is not what was saved.
    """
    manifest = Manifest.read(folder)
    bad = []
    for done, (name, saved) in enumerate(manifest.files.items()):
        report(f"Checking the backup: {done} of {len(manifest.files)} files")
        try:
            with (folder / name).open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == saved.sha256
        except OSError as error:
            bad.append(f"{name} ({error.strerror})")
        else:
            bad += [] if same else [f"{name} (changed)"]
    if bad:
        more = f" and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
        raise BadBackup(
            f"The backup {folder} is damaged: {', '.join(bad[:_MOST_NAMED])}{more}. Use another "
            "backup, and make a new one in another folder: unchanged files are shared between the "
            "backups of one folder."
        )
    return manifest


def _check(settings: Settings, target: Path, installation: str) -> None:
    if settings.ledger_path is not None and not settings.ledger_path.exists():
        raise CannotBackUp(
            f"There is no ledger at {settings.ledger_path}, so nothing to back up: is DATA_DIR "
            "right?"
        )
    for name, ours in (("DATA_DIR", settings.data_dir), ("the registry", settings.registry_path)):
        if ours is not None and target.resolve().is_relative_to(ours.resolve()):
            raise CannotBackUp(
                f"{target} lies in {name} ({ours}), which is what is backed up: name a folder "
                "elsewhere, best on another disk."
            )
    former = newest_backup(target)
    if former == target:
        raise CannotBackUp(f"{target} is a backup itself: name the folder that it lies in.")
    try:
        if former is not None and Manifest.read(former).installation != installation:
            raise CannotBackUp(
                f"{target} holds backups of another installation, such as {former.name}: name "
                "another folder."
            )
    except BadBackup as error:
        raise CannotBackUp(f"{error} For a new one remove it, or name another folder.") from error


def describe_os_error(error: OSError, target: Path) -> str:
    """What the disk or the system refused while ``target`` was written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(target).free
        return f"the disk of {target} is full: {free / 2**30:.1f} GiB are free now"
    name = "" if error.filename is None else f"{error.filename}: "
    return f"{name}{error.strerror or error}"


def _unfinished(target: Path, reason: str) -> str:
    return (
        f"The backup was not finished ({reason}), and nothing of it is kept. Earlier backups in "
        f"{target} are whole. Correct that and run it again."
    )
