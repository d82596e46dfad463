"""The jobs of a round step back from a core that people wait for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backend.jobs.niceness import AUTOGROUP, NICE

ROOT = Path(__file__).resolve().parents[3]


def in_a_session_of_its_own(code: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os\nfrom backend.jobs.niceness import yield_to_serving\n{code}",
        ],
        cwd=ROOT,
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_job_yields_to_other_processes() -> None:
    before = int(in_a_session_of_its_own("print(os.nice(0))"))
    after = int(in_a_session_of_its_own("yield_to_serving(); print(os.nice(0))"))
    assert after == min(before + NICE, 19)


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel shares among processes alone")
def test_a_job_s_session_yields_to_other_sessions() -> None:
    said = in_a_session_of_its_own(f"yield_to_serving(); print(open('{AUTOGROUP}').read())")
    assert said.endswith(f"nice {NICE}")
