"""Nothing is removed from a registry while it is copied.

A lock of the kernel's: it goes with the process that holds it, however that one ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from training.errors import TrainingError

LOCK_FILE = ".lock"
"""In the registry's folder."""


class RemovalsHeld(TrainingError):
    """Nothing can be removed now, since the registry is being copied."""


@contextmanager
def removals_held(root: Path) -> Iterator[None]:
    """Keep all processes from removing anything; waits for removals that are under way.

    Args:
        root: the registry's folder.

    Raises:
        OSError: it is not there, or cannot be locked.
    """
    with _opened(root) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def may_remove(root: Path) -> Iterator[bool]:
    """Whether something may be removed now. What may not is left for the next clearing up."""
    try:
        lock = _opened(root)
    except FileNotFoundError:  # no registry, so nothing to remove
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _opened(root: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(root / LOCK_FILE, flags, 0o600), "r+b")
