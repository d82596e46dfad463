"""The documents say what the code does: tables, folders and file names are the code's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend.cli import cli
from backend.options import options_table
from backend.settings import settings_table
from training.__main__ import cli as training_cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PATH = re.compile(r"(?<![\w./])(?:acquisition|training|backend|tests|docs|docker)/[\w./*-]*[\w*]")


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_is_there(document: Path) -> None:
    named = set(PATH.findall(document.read_text()))
    assert [path for path in sorted(named) if not any(ROOT.glob(path))] == []


def test_the_tree_of_the_architecture_has_a_line_for_each_package() -> None:
    _, tree, _ = re.split(r"<!-- /?tree -->\n", (ROOT / "docs/ARCHITECTURE.md").read_text())
    drawn: set[str] = set()
    above: list[str] = []
    for depth, name in re.findall(r"^( *)(\w+)/ ", tree, re.MULTILINE):
        above = [*above[: len(depth) // 2], name]
        drawn.add("/".join(above))
    packages = {
        str(init.parent.relative_to(ROOT))
        for package in ("acquisition", "training", "backend")
        for init in (ROOT / package).rglob("__init__.py")
    }
    assert packages <= drawn
    assert all((ROOT / folder).is_dir() for folder in drawn)
