"""A bar for work that takes long, at a terminal alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Show(Protocol):
    """``show(done, of)``, or with a name where several things go on side by side."""

    def __call__(self, done: int, of: int, what: str = ...) -> None: ...


@contextmanager
def progress_bar(label: str = "") -> Iterator[Show]:
    """A bar with the time that is left, on stderr; a log or a pipe gets nothing.

    Args:
        label: before the bar where ``show`` gets no name.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        *("{task.description}", BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bars:
        rows = {}

        def show(done: int, of: int, what: str = label) -> None:
            if what not in rows:
                rows[what] = bars.add_task(what, total=of)
            bars.update(rows[what], completed=done, total=of)

        yield show
