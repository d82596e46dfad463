"""The command line as a whole."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from backend import __version__
from backend.cli import cli
from backend.jobs import gpu


def test_the_version_is_printed() -> None:
    shown = CliRunner().invoke(cli, ["--version"])
    assert shown.output == f"committee {__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_every_option_of_every_command_has_a_help_text() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert all(option.help for option in options), name


def test_the_commands_are_the_promised_ones() -> None:
    """Scripts call them: a command is never renamed without its old name."""
    assert set(cli.commands) == {
        *(
            "backup",
            "check-labels",
            "connect",
            "counts",
            "disconnect",
            "doctor",
            "explain",
            "export-masks",
            "import-masks",
            "ledger",
            "map",
            "registry",
            "migrate",
            "pause",
            "pool",
        ),
        *(
            "replay",
            "restore",
            "resume",
            "retrain",
            "rollback",
            "run",
            "serve",
            "status",
            "versions",
            "worker",
        ),
    }


def test_a_queue_that_there_is_not_is_refused() -> None:
    refused = CliRunner().invoke(cli, ["worker", "--queues", "score, training"])
    assert refused.exit_code == 2
    shown = " ".join(refused.output.split())
    assert "'training' is no queue: name some of interactive, train, train-gpu, score" in shown


def test_training_on_a_gpu_is_refused_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(gpu, "torch_finds_gpu", lambda: False)
    refused = CliRunner().invoke(cli, ["worker", "--queues", "train-gpu,train"])
    assert refused.exit_code == 2
    assert "torch finds no GPU here" in refused.output
