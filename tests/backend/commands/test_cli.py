"""The command line as a whole."""

from __future__ import annotations

import re

import click
from click.testing import CliRunner

from backend import __version__
from backend.cli import cli


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
            "migrate",
            "pause",
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
