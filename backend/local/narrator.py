"""Progress for a person: a moving line at a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

REPORT_EVERY_S = 15.0
WORTH_A_LINE_S = 2.0
"""Shorter steps leave no line behind."""

Report = Callable[..., None]
"""``report(what)`` or ``report(what, done, total)``."""


class Narrator:
    """Says what is going on, on ``console``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None

    def say(self, text: str) -> None:
        """A message of its own; safe while a step is shown."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Take the moving line away, also in the middle of a step."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @contextmanager
    def step(self, name: str) -> Iterator[Report]:
        """A step with its elapsed time; what it yields says what it is doing.

        A step that took seconds leaves a line with its name and time.
        """
        started = time.monotonic()
        report = self._moving(name) if self._console.is_terminal else self._lines(started)
        try:
            yield report
        finally:
            self.close()
        seconds = time.monotonic() - started
        if seconds >= WORTH_A_LINE_S:
            self.say(f"  {name}: ready after {seconds:.0f} s.")

    def _moving(self, name: str) -> Report:
        live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        task = live.add_task(name, total=None)
        live.start()
        self._live = live

        def report(what: str, done: int | None = None, total: int | None = None) -> None:
            # Brackets in what pip prints are no markup.
            live.update(task, description=what.replace("[", r"\["), completed=done, total=total)

        return report

    def _lines(self, started: float) -> Report:
        last, said = started, ""

        def report(what: str, done: int | None = None, total: int | None = None) -> None:
            nonlocal last, said
            now = time.monotonic()
            if not said or now - last >= REPORT_EVERY_S:
                count = "" if total is None else f": {done} of {total}"
                self.say(f"  {what}{count} ({now - started:.0f} s)")
                last, said = now, what

        return report
