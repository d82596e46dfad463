"""Progress for a person: a moving line at a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

REPORT_EVERY_S = 15.0
SHORTEST_REPORTED_S = 2.0
"""Shorter steps leave no line behind."""

Report = Callable[..., None]
"""``report(what)`` or ``report(what, done, total)``."""


class ProgressReporter:
    """Shows on ``console`` what is going on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None

    def message(self, text: str) -> None:
        """Print a message of its own; safe while a step is shown."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Remove the moving line, also in the middle of a step."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def step(self, name: str) -> Iterator[Report]:
        """A step with its elapsed time; yields the function that reports what it is doing.

        A step that took seconds leaves a line with its name and time.
        """
        started = time.monotonic()
        report = self._moving_line(name) if self._console.is_terminal else self._log_lines(started)
        try:
            yield report
        finally:
            self.close()
        seconds = time.monotonic() - started
        if seconds >= SHORTEST_REPORTED_S:
            self.message(f"  {name}: ready after {seconds:.0f} s.")

    def _moving_line(self, name: str) -> Report:
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        task = bar.add_task(name, total=None)
        bar.start()
        self._bar = bar

        def report(what: str, done: int | None = None, total: int | None = None) -> None:
            # pip prints brackets, which are not markup.
            bar.update(task, description=what.replace("[", r"\["), completed=done, total=total)

        return report

    def _log_lines(self, started: float) -> Report:
        reported_at: float | None = None

        def report(what: str, done: int | None = None, total: int | None = None) -> None:
            nonlocal reported_at
            now = time.monotonic()
            if reported_at is None or now - reported_at >= REPORT_EVERY_S:
                count = "" if total is None else f": {done} of {total}"
                self.message(f"  {what}{count} ({now - started:.0f} s)")
                reported_at = now

        return report
