"""The README says what the code does: its tables are the code's own."""

from __future__ import annotations

from pathlib import Path

from backend.cli import cli
from backend.options import options_table
from backend.settings import settings_table
from training.__main__ import cli as training_cli

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def test_every_setting_stands_in_the_readme_as_the_code_has_it() -> None:
    assert settings_table() in README


def test_every_option_stands_in_the_readme_as_the_code_has_it() -> None:
    for name, form, default, meaning in options_table():
        assert f"| `{name}` | {form} | {default} | {meaning} |" in README


def test_every_command_of_training_stands_in_the_readme() -> None:
    for name in training_cli.commands:
        assert f"| `{name}" in README, name


def test_every_command_stands_in_the_readme() -> None:
    table = README[README.index("| command | does |") :]
    for name in {*cli.commands, "replay"} - {"run", "migrate"}:
        assert f"`{name}" in table, name
