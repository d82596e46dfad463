"""``python -m tests``: every test, in four pytest processes at the same time.

The live tests mostly wait for servers. Those with servers of their own, which wait longest, have a
process of their own. The unit tests use what both leave of the processor, at the lowest priority,
in two processes. The live tests write to the terminal; what the others wrote follows them. The last
line counts the tests of all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from backend.process_group import launcher
from tests.lane_results import Results, read_results

ROOT = Path(__file__).resolve().parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-p", "tests.lane_results", "--durations=25")
STOP_LIMIT_S = 60.0
"""For pytest to stop its servers after a Ctrl-C."""


@dataclass(frozen=True)
class Lane:
    """What one pytest process runs.

    Attributes:
        arguments: of pytest.
        niceness: added to ours.
        environment: added to ours.
    """

    name: str
    arguments: Sequence[str]
    niceness: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


OWN_SERVERS = tuple(f"tests/live/test_{name}.py" for name in ("chaos", "bench", "run"))

LANES = (
    Lane("live", ("tests/live", *(f"--ignore={file}" for file in OWN_SERVERS))),
    Lane("own servers", OWN_SERVERS),
    *(
        Lane(
            name,
            arguments,
            niceness=19,
            # torch's threads wait for each other at full load, which costs the live tests a core.
            environment={"OMP_NUM_THREADS": "1"},
        )
        for name, arguments in (
            ("backend", ("tests/backend",)),
            ("other", ("tests", "--ignore=tests/live", "--ignore=tests/backend")),
        )
    ),
)


class Running:
    """A lane's process. It has a process group of its own, so that Ctrl-C reaches only us."""

    def __init__(self, lane: Lane, folder: Path, *, to_terminal: bool) -> None:
        self.lane = lane
        self.log = None if to_terminal else folder / f"{lane.name}.log"
        self._results = folder / f"{lane.name}.json"
        color = "yes" if sys.stdout.isatty() else "no"
        command = [*PYTEST, f"--color={color}", f"--results={self._results}", *lane.arguments]
        with ExitStack() as stack:
            output = None if self.log is None else stack.enter_context(self.log.open("wb"))
            self.process = subprocess.Popen(
                launcher(command),
                cwd=ROOT,
                env={**os.environ, **lane.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output and subprocess.STDOUT,
                process_group=0,
            )
        priority = os.getpriority(os.PRIO_PROCESS, 0) + lane.niceness
        os.setpriority(os.PRIO_PROCESS, self.process.pid, priority)

    def show(self) -> None:
        """Wait until it has ended; meanwhile print its output, unless the terminal has it."""
        if self.log is None:
            self.process.wait()
            return
        print(f"\n{f' {self.lane.name} tests ':=^80}", flush=True)
        with self.log.open("rb") as log:
            ended = False
            while not ended:
                ended = self._ends_within(0.5)
                sys.stdout.buffer.write(log.read())
                sys.stdout.buffer.flush()

    def interrupt(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """Wait for it to end, then end it by force."""
        if not self._ends_within(STOP_LIMIT_S):
            self.process.kill()
            self.process.wait()

    def results(self) -> Results | None:
        """None if pytest ended without any."""
        return read_results(self._results)

    def _ends_within(self, limit_s: float) -> bool:
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def run(lanes: Sequence[Lane] = LANES) -> int:
    """Run the lanes at the same time; returns the exit status for all of them."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tests-") as folder:
        all_running = [
            Running(lane, Path(folder), to_terminal=number == 0)
            for number, lane in enumerate(lanes)
        ]
        try:
            for running in all_running:
                running.show()
            status = max(abs(running.process.returncode) for running in all_running)
        except KeyboardInterrupt:
            status = 130
            for running in all_running:
                running.interrupt()
            for running in all_running:
                running.stop()
        print(f"\n{_summary(all_running, time.monotonic() - started)}")
    return status


def _summary(all_running: Sequence[Running], seconds: float) -> str:
    counted = [results for running in all_running if (results := running.results())]
    uncounted = [
        f"; pytest ended with status {running.process.returncode} before it counted the "
        f"{running.lane.name} tests"
        for running in all_running
        if running.results() is None
    ]
    failed = [name for results in counted for name in results.failed]
    return "\n".join(
        [
            *(f"FAILED {name}" for name in failed),
            f"{sum(results.passed for results in counted)} passed, {len(failed)} failed, "
            f"{sum(results.skipped for results in counted)} skipped in {seconds:.0f} s"
            + "".join(uncounted),
        ]
    )


if __name__ == "__main__":
    try:
        sys.exit(run())
    except KeyboardInterrupt:  # a second Ctrl-C: the kernel kills the lanes when we end
        sys.exit(130)
