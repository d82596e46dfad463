"""`serve`: the web, for Label Studio."""

from __future__ import annotations

import os

import click

from backend.settings import load_settings


@click.command()
def serve() -> None:
    """Serve Label Studio's protocol (gunicorn, at HOST and PORT)."""
    from backend.ledger.ledger import upgrade
    from backend.web.serve import web_command

    settings = load_settings()
    upgrade(settings.ledger_url)
    command = web_command(settings)
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell
