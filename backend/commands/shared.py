"""What several commands take and print."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from backend.errors import BadRequest
from backend.settings import load_settings
from backend.workplace import Workplace

# Their home is below, since the commands of training take them too.
from training.command_options import AS_JSON as AS_JSON
from training.command_options import print_json as print_json
from training.progress import progress_bar as progress_bar

ID = click.IntRange(1, 2**63 - 1)  # what the ledger's columns hold

PROJECT = click.option(
    "--project", "studio_id", type=ID, required=True, help="Label Studio's project number."
)
ANY_PROJECT = click.option(
    "--project", "studio_id", type=ID, default=None, help="One project only (default: all)."
)


@contextmanager
def open_workplace() -> Iterator[Workplace]:
    """The workplace of a command, with a ledger of this release's schema."""
    work = Workplace(load_settings())
    try:
        work.ledger.check_schema()
        yield work
    finally:
        work.close()


def list_lines(lines: Sequence[str], most: int = 20) -> None:
    """The first of them, and how many more there are."""
    for line in lines[:most]:
        click.echo(line)
    if len(lines) > most:
        click.echo(f"And {len(lines) - most} more: --json lists all.")


def parse_options_object(text: str | None) -> dict[str, Any] | None:
    """The value of ``--options``; None if it was not given.

    Raises:
        BadRequest: it is no JSON object.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"--options must be a JSON object: {error}.") from error
    if not isinstance(value, dict):
        raise BadRequest(f"--options must be a JSON object, got a {type(value).__name__}.")
    return value
