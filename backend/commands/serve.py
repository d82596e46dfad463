"""`serve`: the web, for Label Studio."""

from __future__ import annotations

import click

from backend.logs import log_to_stderr
from backend.settings import load_settings


@click.command()
def serve() -> None:
    """Serve Label Studio's protocol at HOST and PORT."""
    from backend.ledger import upgrade
    from backend.web.serve import serve as serve_web

    settings = load_settings()
    log_to_stderr(settings.log_format)
    upgrade(settings.ledger_url)
    serve_web(settings)
