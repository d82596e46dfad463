"""What pages show and must not wait for: Label Studio's state, and the doctor's findings.

Both are asked by a thread, one at a time, when somebody looks at a page; the page shows what was
found last, and when.
"""

from __future__ import annotations

import fcntl
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.data_dir import read_json_object, write_json_object
from backend.errors import BackendError, BadSettings
from backend.insight.queue_list import skipped_by_all
from backend.label_studio.bulk import Studio, Task
from backend.label_studio.limited_session import limited
from backend.settings import ROOT
from backend.workplace import Workplace

log = logging.getLogger(__name__)

STUDIO_EVERY_S = 15.0
STUDIO_WITHIN_S = 5.0
SKIPPED_WITHIN_S = 20.0
"""Somebody asks for it by a click; it lists all that is labelled, 500 tasks in some 0.3 s."""

FIRST_WAIT_S = 0.2
"""How long the first page after a start waits for Label Studio; later ones wait for nothing."""

DOCTOR_EVERY_S = 600.0
"""It loads label-studio-sdk and asks many questions: some seconds of a processor each time."""

DOCTOR_AGAIN_S = 20.0
"""The least time between two that somebody asks for."""

DOCTOR_WITHIN_S = 120.0

Findings = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class StudioState:
    """Whether Label Studio answers.

    Attributes:
        answers: None before it was asked.
        problem: why it does not; "" if it does.
        asked_at: unix seconds.
    """

    answers: bool | None = None
    problem: str = ""
    asked_at: float = 0.0


class StudioWatch:
    """Asks Label Studio whether it answers and takes our token."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._state = StudioState()
        self._asking = _Once(self._ask)

    def state(self) -> StudioState:
        if time.time() - self._state.asked_at > STUDIO_EVERY_S:
            asked = self._asking.start()
            if self._state.answers is None:
                asked.wait(FIRST_WAIT_S)
        return self._state

    def tasks(self, studio_id: int, ids: Sequence[int]) -> dict[int, Task] | None:
        """These tasks as Label Studio has them now; None if it does not say so in time."""
        if self.state().answers is False:
            return None
        try:
            with limited(STUDIO_WITHIN_S), self._quick() as studio:
                return {task.id: task for task in studio.tasks(studio_id, ids=ids)}
        except BackendError as error:
            log.info("a page does without the tasks' states: %s", error)
            return None

    def skipped(self, studio_id: int) -> list[int]:
        """Tasks that were skipped and never labelled.

        Raises:
            StudioUnreachable, StudioRefused: as the client met them, within ``SKIPPED_WITHIN_S``.
        """
        with limited(SKIPPED_WITHIN_S), self._quick() as studio:
            return skipped_by_all(studio, studio_id)

    def _quick(self) -> Studio:
        url, key = self._work.settings.label_studio()
        return Studio(url, key, timeout_s=STUDIO_WITHIN_S, answer_s=STUDIO_WITHIN_S)

    def _ask(self) -> None:
        try:
            with self._quick() as studio:
                studio.whoami()
            self._state = StudioState(True, "", time.time())
        except BackendError as error:
            self._state = StudioState(False, str(error), time.time())


@dataclass(frozen=True)
class DoctorReport:
    """What the doctor found last.

    Attributes:
        findings: as ``doctor --json`` prints them; None before it has run.
        at: when, unix seconds.
        running: it is at work now.
        problem: why it could not run; "" if it could.
    """

    findings: Findings | None = None
    at: float = 0.0
    running: bool = False
    problem: str = ""


class DoctorWatch:
    """Runs ``doctor`` beside the web, which must not load label-studio-sdk, and keeps what it
    found in DATA_DIR for all processes."""

    def __init__(self, data_dir: Path, run: Callable[[], Findings] | None = None) -> None:
        self._run = run or run_doctor
        self._file = data_dir / "doctor.json"
        self._lock = data_dir / "doctor.lock"
        self._problem = ""
        self._running = _Once(self._examine)

    def report(self, *, again: bool = False) -> DoctorReport:
        """What was found last; a new run begins if that was long ago.

        Args:
            again: somebody asks for a new run.
        """
        last = self._last()
        age_s = time.time() - last.at
        if age_s > (DOCTOR_AGAIN_S if again else DOCTOR_EVERY_S) or age_s < 0:
            self._running.start()
        return DoctorReport(last.findings, last.at, self._running.busy, self._problem)

    def _last(self) -> DoctorReport:
        try:
            kept = read_json_object(self._file, "the doctor then runs again")
        except BadSettings:
            return DoctorReport()
        if kept is None:
            return DoctorReport()
        return DoctorReport(kept.get("findings"), float(kept.get("at", 0.0)))

    def _examine(self) -> None:
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # the other process of the web is at it
            try:
                found = self._run()
                self._problem = ""
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                log.warning("the doctor could not run: %s", error)
                self._problem = f"The doctor could not run ({type(error).__name__}); see the log."
                found = None
            write_json_object(self._file, {"at": time.time(), "findings": found})


def run_doctor() -> Findings:
    """What ``python -m backend doctor --json`` prints.

    Raises:
        OSError, SubprocessError, ValueError: it did not start, end in time, or print JSON.
    """
    done = subprocess.run(
        [sys.executable, "-m", "backend", "doctor", "--json"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DOCTOR_WITHIN_S,
        check=False,  # it exits with 1 where it found an error
    )
    found = json.loads(done.stdout)
    if not isinstance(found, list):
        raise ValueError("doctor printed no list")
    return found


class _Once:
    """Runs a function in a thread, never twice at a time."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.busy = False

    def start(self) -> threading.Event:
        """Set when the run that is under way, maybe started by this, has ended."""
        with self._lock:
            if not self.busy:
                self.busy = True
                self._ended = threading.Event()
                with suppress(RuntimeError):  # the process is ending
                    threading.Thread(target=self._turn, name="dashboard", daemon=True).start()
            return self._ended

    def _turn(self) -> None:
        try:
            self._function()
        finally:
            self.busy = False
            self._ended.set()
