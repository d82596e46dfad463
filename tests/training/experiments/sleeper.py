"""A task for processes side by side; it imports no torch, which takes each of them seconds."""

from __future__ import annotations

import threading
from pathlib import Path


def sleep_or_fail(folder: Path, number: int) -> None:
    """Task 0 fails, the others take long and say that they began."""
    (folder / str(number)).touch()
    if number == 0:
        raise RuntimeError("the first one fails")
    threading.Event().wait(3600)
