"""`python -m training` as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from training.__main__ import cli


@pytest.fixture
def widest_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("widest_umask")
def test_what_its_commands_write_only_their_user_can_read(tmp_path: Path) -> None:
    fields, seen = tmp_path / "fields", tmp_path / "seen"
    for command in (
        ["draw", str(fields), "--count", "1"],
        ["images", str(fields), "--output", str(seen)],
    ):
        ran = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
    written = [*fields.rglob("*"), *seen.rglob("*"), fields, seen]
    assert len(written) > 6
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_every_command_writes_so(tmp_path: Path) -> None:
    """The group sets it, before whichever command was asked for."""
    for name in cli.commands:
        before = os.umask(0)
        try:
            CliRunner().invoke(cli, [name])
            assert os.umask(0) == 0o077, name
        finally:
            os.umask(before)
