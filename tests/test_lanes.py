"""``python -m tests``: pytest processes at the same time, and one verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.__main__ import ROOT
from tests.limits import scaled, wait_until

PASSES = "def test_it(): pass\n"
FAILS = "def test_it(): assert False\ndef test_that(): pass\n"
SKIPS = "import pytest\ndef test_it(): pytest.skip('not today')\n"
NO_FIXTURE = "def test_it(absent): pass\n"
DIES = "import os\ndef test_it(): os._exit(9)\n"
HANGS = """
import pathlib, threading
HERE = pathlib.Path(__file__)
def test_it():
    HERE.with_suffix(".begun").touch()
    try:
        threading.Event().wait()
    finally:
        HERE.with_suffix(".ended").touch()
"""
NICENESS = "import os\ndef test_it(): print('niceness', os.nice(0))\n"


def start_lanes(folder: Path, live: str, unit: str) -> subprocess.Popen[str]:
    """The command, with one file of tests in each lane."""
    lanes = []
    for name, text, niceness in (("live", live, 0), ("unit", unit, 19)):
        file = folder / f"test_{name}.py"
        file.write_text(text)
        lanes.append(f"Lane({name!r}, ({str(file)!r}, '-s', '-p', 'no:cacheprovider'), {niceness})")
    code = (
        "import signal, sys; from tests.__main__ import Lane, run;"
        # What started us in the background had us ignore it, and our children with us.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"sys.exit(run([{', '.join(lanes)}]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # they take seconds to import
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit status, output)."""
    output, _ = process.communicate(timeout=scaled(120))
    return process.returncode, output


@pytest.mark.parametrize(
    ("live", "unit", "status", "line"),
    [
        (PASSES, SKIPS, 0, "1 passed, 0 failed, 1 skipped in"),
        (FAILS, PASSES, 1, "2 passed, 1 failed, 0 skipped in"),
        (PASSES, FAILS, 1, "2 passed, 1 failed, 0 skipped in"),
        (PASSES, NO_FIXTURE, 1, "1 passed, 1 failed, 0 skipped in"),
        ("", PASSES, 5, "1 passed, 0 failed, 0 skipped in"),
    ],
)
def test_the_last_line_and_the_exit_status_are_true_of_both_lanes(
    tmp_path: Path, live: str, unit: str, status: int, line: str
) -> None:
    returned, output = end(start_lanes(tmp_path, live, unit))
    assert output.splitlines()[-1].startswith(line), output
    assert returned == status


def test_what_failed_in_either_lane_is_named_at_the_end(tmp_path: Path) -> None:
    _, output = end(start_lanes(tmp_path, FAILS, FAILS))
    assert output.splitlines()[-3:-1] == [
        f"FAILED {file}::test_it" for file in ("test_live.py", "test_unit.py")
    ]


def test_a_lane_that_dies_is_not_taken_for_one_that_passed(tmp_path: Path) -> None:
    returned, output = end(start_lanes(tmp_path, PASSES, DIES))
    assert returned == 9
    assert "ended with status 9 before it counted the unit tests" in output.splitlines()[-1]


def test_the_unit_lane_yields_to_the_live_one_and_is_printed_after_it(tmp_path: Path) -> None:
    _, output = end(start_lanes(tmp_path, NICENESS, NICENESS))
    live, unit = output.split("= unit tests =")
    assert f"niceness {os.nice(0)}\n" in live
    assert f"niceness {min(19, os.nice(0) + 19)}\n" in unit


def test_an_interrupt_ends_both_lanes_and_lets_them_clean_up(tmp_path: Path) -> None:
    process = start_lanes(tmp_path, HANGS, HANGS)
    for name in ("live", "unit"):
        wait_until((tmp_path / f"test_{name}.begun").exists, 60, f"the {name} lane to begin")
    process.send_signal(signal.SIGINT)
    returned, output = end(process)
    assert returned == 130
    assert (tmp_path / "test_live.ended").exists()
    assert (tmp_path / "test_unit.ended").exists()
    assert "0 passed" in output.splitlines()[-1]
