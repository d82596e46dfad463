"""The jobs of a round yield to the web, and not for the whole machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
AUTOGROUP = Path("/proc/self/autogroup")


def output_of(code: str) -> str:
    lines = f"import os\nfrom backend.jobs.niceness import yield_to_web\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=ROOT,
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("nice", [0, 10, 19])
def test_a_job_takes_the_nice_level_that_is_set(nice: int) -> None:
    before = int(output_of("print(os.nice(0))"))
    after = int(output_of(f"yield_to_web({nice}); print(os.nice(0))"))
    assert after == min(before + nice, 19)


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel shares among processes alone")
def test_the_session_keeps_its_share_beside_other_sessions() -> None:
    assert output_of(f"yield_to_web(10); print(open('{AUTOGROUP}').read())").endswith("nice 0")
