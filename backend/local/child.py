"""One process that `make run` starts, watches, starts again and stops.

A child leads a process group of its own, is killed by the kernel when the supervisor ends, and
writes to a log of its own in DATA_DIR/logs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from backend.process_group import launcher
from backend.settings import ROOT

START_LIMIT_S = 90.0
LOG_BYTES = 5 * 1024 * 1024
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
RETRY_AFTER_OSERROR_S = 15.0
STEADY_S = 60.0
"""A child that ran this long starts again after the first backoff."""


class Child:
    """A process to be started, watched and stopped.

    Args:
        name: for people and for the name of the log.
        ready: whether it does its work by now; asked only while it is alive.
        limit_s: how long it may take to be ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        ready: Callable[[Child], bool],
        limit_s: float = START_LIMIT_S,
    ) -> None:
        self.name = name
        self.log = log
        self.command = list(command)
        self.limit_s = limit_s
        self._environment = dict(environment)
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._failures = 0
        self._restart_at = 0.0
        self._check_again_at = 0.0
        self._was_ready = False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; only from the main thread, to which the kernel then ties it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._rotate_log()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                launcher(self.command),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # The supervisor passes Ctrl-C on itself, in the right order. No session of its own:
                # jobs would yield to the whole machine (backend/jobs/niceness.py).
                process_group=0,
            )
        self._started = time.monotonic()
        self._was_ready = False

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        return self.alive() and self._ready(self)

    def log_tail(self, lines: int = 12) -> str:
        """The last lines of its log, indented for a message."""
        try:
            with self.log.open(errors="replace") as file:
                return "".join(f"  | {line.rstrip()}\n" for line in deque(file, lines))
        except OSError as error:
            return f"  | (the log cannot be read: {error})\n"

    def keep_running(self, report: Callable[[str], None]) -> None:
        """Keep its log short, and start it again if it ended or never got ready.

        The wait before a start grows each time it ends soon. What the disk or the system refuses
        is reported and tried again later.
        """
        if time.monotonic() < self._check_again_at:
            return
        try:
            if self.alive():
                self._check_alive(report)
            elif self._process is not None:
                self._schedule_restart(report, self._process.returncode)
            elif time.monotonic() >= self._restart_at:
                self.start()
        except OSError as error:
            self._check_again_at = time.monotonic() + RETRY_AFTER_OSERROR_S
            report(f"{self.name} cannot be watched for {RETRY_AFTER_OSERROR_S:g} s: {error}.")

    def ask_to_stop(self) -> None:
        if self._process is not None and self.alive():
            self._process.terminate()

    def stop_by(self, deadline: float) -> bool:
        """Wait for its end until ``deadline`` (monotonic), then kill it and its group.

        Returns:
            Whether it ended by itself.
        """
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
            by_itself = True
        except subprocess.TimeoutExpired:
            by_itself = False
        self._kill_group()
        self._process.wait()
        return by_itself

    def _check_alive(self, report: Callable[[str], None]) -> None:
        self._rotate_log()
        self._was_ready = self._was_ready or self.ready()
        if not self._was_ready and time.monotonic() - self._started > self.limit_s:
            report(f"{self.name} was not ready after {self.limit_s:g} s, so it is ended.")
            self._kill_group()

    def _schedule_restart(self, report: Callable[[str], None], status: int) -> None:
        if time.monotonic() - self._started > STEADY_S:
            self._failures = 0
        wait_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        report(
            f"{self.name} ended ({_describe_status(status)}); it starts again in "
            f"{wait_s:g} s. Its last lines, of {self.log}:\n{self.log_tail()}"
        )
        self._kill_group()
        self._process = None
        self._restart_at = time.monotonic() + wait_s

    def _rotate_log(self) -> None:
        """Move a long log to ``NAME.1.log``.

        The child keeps the file open and appends to it, so it is copied and emptied, never
        renamed; a line written between the two is lost.
        """
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            with suppress(OSError):  # a full disk has no room for it, and needs the log emptied
                shutil.copyfile(self.log, self.log.with_suffix(".1.log"))
            os.truncate(self.log, 0)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _describe_status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"status {code}"
