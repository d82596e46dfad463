"""What several commands take and print, those of `python -m backend` too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from training.channels import parse_channels

STOPPED = 130
"""The exit status of what Ctrl-C ended, as shells have it."""

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

version_option = click.option(
    "--version",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="A version's folder; `python -m backend versions` lists them.",
)

own_network = click.option(
    "--network",
    default=None,
    help="Your own network, package.module:factory, if the version is made with it.",
)


def _channels(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    try:
        return None if text is None else parse_channels(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


channels_option = click.option(
    "--channels",
    callback=_channels,
    default=None,
    help='Which to show, counted from 1: "2" as grey, "1,3,2" as red, green and blue.',
)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
