"""A plugin of pytest for ``python -m tests``: writes what became of the tests to a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Results:
    """How many tests of a lane ended which way. An error in a fixture counts as a failure."""

    passed: int
    skipped: int
    failed: list[str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, required=True)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    ended = {
        outcome: [report.nodeid for report in terminalreporter.getreports(outcome)]
        for outcome in ("passed", "skipped", "failed", "error")
    }
    # A test that failed may have an error in a fixture's clean-up too.
    failed = list(dict.fromkeys(ended["failed"] + ended["error"]))
    results = Results(len(set(ended["passed"]) - set(failed)), len(ended["skipped"]), failed)
    file: Path = config.getoption("results")
    file.write_text(json.dumps(asdict(results)))


def read_results(file: Path) -> Results | None:
    """None where pytest ended before it had any."""
    return Results(**json.loads(file.read_text())) if file.exists() else None
