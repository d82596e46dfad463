"""Both programs: exit statuses and JSON as docs/COMMANDS.md has them, bars on a terminal alone."""

from __future__ import annotations

import io
import sys
from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from backend.actions.masks.export import Export
from backend.cli import cli
from backend.commands.replay.curves import ReplayResult
from backend.insight.counts.project import ProjectCounts
from backend.insight.explain import Explanation
from backend.insight.findings.finding import Finding
from backend.insight.label_list import LabelList
from backend.insight.read_model import to_json
from backend.insight.status import Status
from backend.insight.versions import VersionEntry
from tests.command_page import exit_statuses, json_keys
from training.__main__ import cli as training_cli
from training.committee.store.copying import Copied
from training.errors import TrainingError
from training.progress import progress_bar

PROGRAMS = {"backend": cli, "training": training_cli}

ACTING = {
    "backend": {
        *("disconnect", "ledger", "migrate", "pause", "pool", "registry", "restore", "resume"),
        *("retrain", "rollback", "run", "serve", "worker"),
    },
    "training": {"draw", "export", "loop"},
}
"""They change something, and their exit status says whether they did."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def raises(error: BaseException) -> click.Command:
    def callback() -> None:
        raise error

    return click.Command("fails", callback=callback)


def test_every_command_that_reads_takes_json_and_the_page_lists_it() -> None:
    assert {
        f"{program} {name}" for program, group in PROGRAMS.items() for name in group.commands
    } - json_keys().keys() == {
        f"{program} {name}" for program, names in ACTING.items() for name in names
    }
    for command in json_keys():
        program, *names = command.split()
        found: click.Command = PROGRAMS[program]
        for name in names:
            assert isinstance(found, click.Group)
            found = found.commands[name]
        options = [flag for each in found.params for flag in each.opts]
        assert "--json" in options, command


@pytest.mark.parametrize(
    ("command", "model", "more"),
    [
        ("status", Status, ()),
        ("versions", VersionEntry, ()),
        ("explain", Explanation, ()),
        ("counts", ProjectCounts, ("files",)),
        ("export-masks", Export, ()),
        ("replay", ReplayResult, ()),
        ("check-labels", LabelList, ()),
        ("registry copy", Copied, ()),
    ],
)
def test_the_keys_on_the_page_are_those_of_the_model(
    command: str, model: type, more: tuple[str, ...]
) -> None:
    assert json_keys()[f"backend {command}"] == {each.name for each in fields(model)} | {*more}


def test_a_finding_keeps_its_older_key() -> None:
    finding = Finding("code", "ok", None, "what")
    assert (
        json_keys()["backend doctor"]
        == finding.to_json().keys()
        == {
            *(to_json(finding).keys() - {"fix"}),
            "mend",
        }
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_exit_statuses_are_those_of_the_page(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = PROGRAMS[program]

    def status(*words: str) -> int:
        return CliRunner().invoke(group, list(words)).exit_code

    ended = {status("--help"), status("none"), status("--none")}
    for error in (TrainingError("a sentence"), KeyboardInterrupt()):
        monkeypatch.setitem(group.commands, "fails", raises(error))
        ended.add(status("fails"))
    assert ended == exit_statuses() == {0, 1, 2, 130}


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setenv("TERM", "xterm")
    for stderr in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress_bar("exporting") as show:
            show(1, 3)
            show(3, 3)
        written.append(stderr.getvalue())
    assert "exporting" in written[0]
    assert "3/3" in written[0]
    assert written[1] == ""
