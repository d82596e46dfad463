"""The names of workers: they hold parts in the ledger, and tell which process started them."""

from __future__ import annotations

import re
from typing import NamedTuple

_NAME = re.compile(r"(.+)-(\d+)-(\d+)-\d+")  # as worker_name makes it


class ParentId(NamedTuple):
    """The process that started a worker.

    Attributes:
        space: its ``pid_space``: containers may share host name and process numbers.
    """

    host: str
    space: int
    pid: int


def worker_name(host: str, space: int, parent_pid: int, number: int) -> str:
    """The name of a parent's worker."""
    return f"{host}-{space}-{parent_pid}-{number}"


def parent_of(name: str) -> ParentId | None:
    """The parent of a worker; None if the name is not of our making."""
    found = _NAME.fullmatch(name)
    return None if found is None else ParentId(found[1], int(found[2]), int(found[3]))
