"""The jobs of a round yield to the web, and not for the whole machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
AUTOGROUP = Path("/proc/self/autogroup")


LEVELS = (0, 10, 19)

# A session of its own; a fork of it for each level says its niceness before and after.
CODE = f"""
import os
from backend.jobs.niceness import yield_to_web
for level in {LEVELS}:
    if os.fork() == 0:
        before = os.nice(0)
        yield_to_web(level)
        group = open("{AUTOGROUP}").read().strip() if {AUTOGROUP.exists()} else ""
        print(before, os.nice(0), group, sep=",", flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def told() -> dict[int, list[str]]:
    """Of each level: niceness before, niceness after, and what the kernel says of the session."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.split(",") for line in done.stdout.splitlines())
    return dict(zip(LEVELS, lines, strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_a_job_takes_the_nice_level_that_is_set(told: dict[int, list[str]], level: int) -> None:
    before, after, _ = told[level]
    assert int(after) == min(int(before) + level, 19)


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel shares among processes alone")
def test_the_session_keeps_its_share_beside_other_sessions(told: dict[int, list[str]]) -> None:
    assert told[10][2].endswith("nice 0")
