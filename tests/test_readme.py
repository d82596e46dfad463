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
SETTINGS = (ROOT / "docs/SETTINGS.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PATH = re.compile(r"(?<![\w./])(?:acquisition|training|backend|tests|docs|docker)/[\w./*-]*[\w*]")


def test_every_setting_is_documented_as_the_code_has_it() -> None:
    missing = [row for row in settings_table().splitlines() if row not in SETTINGS.splitlines()]
    assert missing == [], "copy these lines into the first table of docs/SETTINGS.md"
    assert settings_table() in SETTINGS  # and no other line between them


def test_every_option_is_documented_as_the_code_has_it() -> None:
    rows = [f"| `{name}` | {' | '.join(others)} |" for name, *others in options_table()]
    missing = [row for row in rows if row not in SETTINGS.splitlines()]
    assert missing == [], "copy these lines into the second table of docs/SETTINGS.md"


def test_every_command_of_training_stands_in_the_readme() -> None:
    for name in training_cli.commands:
        assert f"| `{name}" in README, name


def test_every_command_stands_in_the_readme() -> None:
    table = README[README.index("| command | does |") :]
    for name in {*cli.commands, "replay"} - {"run", "migrate"}:
        assert f"`{name}" in table, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_is_there(document: Path) -> None:
    # A NAME stands for any.
    named = {path.replace("NAME", "*") for path in PATH.findall(document.read_text())}
    assert [path for path in sorted(named) if not any(ROOT.glob(path))] == []


def test_what_the_architecture_finds_in_a_file_is_there() -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text()
    named = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)
    assert len(named) > 5
    assert [(word, path) for word, path in named if word not in (ROOT / path).read_text()] == []


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
