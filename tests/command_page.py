"""What docs/COMMANDS.md promises to scripts."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parent.parent / "docs/COMMANDS.md").read_text()


def json_keys() -> dict[str, set[str]]:
    """The commands that take --json, as ``backend status``, and the keys of what they print."""
    _, table, _ = re.split(r"<!-- /?keys -->\n", PAGE)
    rows = re.findall(r"^\| `([\w -]+)` \| (.*) \|$", table, re.MULTILINE)
    return {command: set(re.findall(r"`(\w+)`", keys)) for command, keys in rows}


def exit_statuses() -> set[int]:
    table = PAGE[PAGE.index("| status | means |") :].split("\n\n", 1)[0]
    return {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
