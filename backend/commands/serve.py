"""`serve`: the web, for Label Studio."""

from __future__ import annotations

import click

from backend.commands.shared import log_to_stderr
from backend.settings import load_settings


@click.command()
def serve() -> None:
    """Serve Label Studio's protocol at HOST and PORT."""
    from backend.ledger import upgrade
    from backend.web.serve import serve as serve_web

    log_to_stderr()
    settings = load_settings()
    upgrade(settings.ledger_url)
    serve_web(settings)
