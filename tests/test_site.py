"""The documents as a site: commands that parse, pictures that are small, nothing from elsewhere."""

from __future__ import annotations

import copy
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from backend.cli import cli
from training.__main__ import cli as training_cli
from training.experiments.loop_config import read_config

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"backend": cli, "training": training_cli}
HOOKS = runpy.run_path(str(ROOT / "docs/site/hooks.py"))
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

CALL = re.compile(r"python -m (backend|training)(?![\w.])(.*)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[str]:
    """The lines of its blocks of commands, continued lines joined."""
    for language, block in FENCE.findall(text):
        if language == "":
            yield from block.replace("\\\n", " ").splitlines()


def sentences(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def typed() -> Iterator[Any]:
    """Every call of our programs in a block, which is one to type."""
    for document in DOCUMENTS:
        for line in blocks(document.read_text()):
            if (found := CALL.search(line)) and "`" not in line:
                yield pytest.param(*found.groups(), id=f"{document.name}: {found[0]}")


def mentioned() -> Iterator[Any]:
    """Every call in a sentence, with or without the program: ``doctor --fix``."""
    known = {name for group in PROGRAMS.values() for name in group.commands}
    for document in DOCUMENTS:
        for text in sentences(document.read_text()):
            found = CALL.search(text)
            words = (found[2] if found else text).split()
            if words and (found or (words[0] in known and "--" in text)):
                yield pytest.param(found and found[1], words, id=f"{document.name}: {text}")


def parse(program: str, text: str) -> None:
    """Read a line as click does when it is typed, and run nothing.

    Raises:
        click.ClickException: there is no such command, option or value.
    """
    shown = text.split(" > ")[0].translate({ord("["): None, ord("]"): None})
    words = shlex.split(shown, comments=True)
    group = PROGRAMS[program]
    context = click.Context(group)
    _, command, rest = group.resolve_command(context, words)
    command = copy.deepcopy(command)
    assert command is not None
    for each in command.params:
        each.callback = None  # it may read files
        if isinstance(each.type, click.Path):
            each.type.exists = False
    command.make_context(words[0], rest, parent=context)


def named(group: click.Group, words: list[str]) -> click.Command | None:
    """The command that the first words name: ``pool import`` is one of a group's."""
    found = group.commands.get(words[0])
    if isinstance(found, click.Group) and len(words) > 1:
        return named(found, words[1:]) or found
    return found


@pytest.mark.parametrize(("program", "text"), [*typed()])
def test_a_call_that_a_document_shows_can_be_typed(program: str, text: str) -> None:
    parse(program, text)


@pytest.mark.parametrize(("program", "words"), [*mentioned()])
def test_a_call_in_a_sentence_has_a_name_and_options_that_are_there(
    program: str | None, words: list[str]
) -> None:
    flags = set(re.findall(r"--[a-z-]+", " ".join(words)))
    groups = PROGRAMS.values() if program is None else [PROGRAMS[program]]
    commands = [group if words[0][0] in "-." else named(group, words) for group in groups]
    known = [
        {"--help", *(flag for each in command.params for flag in each.opts)}
        for command in commands
        if command is not None
    ]
    assert any(flags <= options for options in known)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_knows_every_target_that_a_document_shows(document: Path) -> None:
    text = document.read_text()
    called = re.compile(r"(?:\w+=\S+ )?make ([a-z-]+)")
    found = [called.match(line) for line in [*blocks(text), *sentences(text)]]
    assert [each[1] for each in found if each and each[1] not in MAKE_TARGETS] == []


def test_a_wrong_call_is_noticed() -> None:
    for words in ("conect --project 1", "connect --projekt 1", "connect --project x", "connect"):
        with pytest.raises(click.ClickException):
            parse("backend", words)
    with pytest.raises(click.ClickException):
        parse("training", "draw")


def test_the_configuration_that_a_page_shows_can_be_played(tmp_path: Path) -> None:
    (shown,) = [
        block
        for language, block in FENCE.findall((ROOT / "docs/FROM_A_SCRIPT.md").read_text())
        if language == "yaml"
    ]
    (tmp_path / "trial.yaml").write_text(shown)
    for name in ("images", "masks"):
        (tmp_path / "fields" / name).mkdir(parents=True)
    assert read_config(tmp_path / "trial.yaml").data == tmp_path / "fields"


def test_every_picture_is_small_and_shown_and_there() -> None:
    shown = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"\]\((?:docs/)?pictures/([\w-]+\.png)\)", document.read_text())
    }
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/pictures").iterdir()}
    assert sizes.keys() == shown
    assert max(sizes.values()) <= 150_000
    assert sum(sizes.values()) <= 1_000_000


def test_every_page_stands_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for each in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(each)

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(pages(config["nav"])) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
    assert config["strict"] is True


class TestTheHooks:
    def test_a_document_that_is_named_becomes_a_link_but_not_in_code(self) -> None:
        link: Callable[[str], str] = HOOKS["on_page_markdown"]
        assert link("See docs/LABELS.md.") == "See [docs/LABELS.md](LABELS.md)."
        for same in ("`docs/LABELS.md`", "[docs/LABELS.md](LABELS.md)", "```\ndocs/LABELS.md\n```"):
            assert link(same) == same
        assert link("the [README](../README.md)") == "the README"

    @pytest.mark.parametrize(
        "page",
        [
            '<img src="https://cdn.example/x.png">',
            '<img srcset="a.png 1x, //cdn.example/b.png 2x">',
            '<link rel="preconnect" href="https://fonts.example">',
            "<script src=HTTPS://cdn.example/x.js></script>",
            "<style>@import 'https://fonts.example/a.css';</style>",
            '<p style="background: url(//cdn.example/x.png)">',
        ],
    )
    def test_what_would_be_fetched_from_elsewhere_is_found(self, tmp_path: Path, page: str) -> None:
        (tmp_path / "index.html").write_text(page)
        assert len(list(HOOKS["loaded_from_elsewhere"](tmp_path))) == 1

    def test_each_page_tells_the_browser_to_ask_nobody_else(self) -> None:
        policy = (ROOT / "docs/site/overrides/main.html").read_text()
        assert "default-src 'self'" in policy
        assert "//" not in policy

    def test_links_to_click_and_files_of_the_site_are_fine(self, tmp_path: Path) -> None:
        (tmp_path / "index.html").write_text(
            '<a href="https://example.org">x</a><img src="pictures/x.png"><link href="a.css">'
            '<img src="data:image/png;base64,AA//">'
        )
        (tmp_path / "a.css").write_text("p { background: url(x.png) url(data:image/svg+xml,%3C) }")
        assert list(HOOKS["loaded_from_elsewhere"](tmp_path)) == []
