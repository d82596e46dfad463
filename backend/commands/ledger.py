"""`migrate` and `ledger`: the ledger of this release, here or in another database."""

from __future__ import annotations

import click

from backend.settings import load_settings


@click.command()
def migrate() -> None:
    """Bring the ledger to this release's schema; safe to repeat."""
    from backend.ledger import upgrade

    upgrade(load_settings().ledger_url)


@click.group()
def ledger() -> None:
    """The ledger's database."""


@ledger.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def copy(source: str, target: str) -> None:
    """Copy the ledger at the URL FROM into the empty database at TO, while nothing runs.

    The URLs are as in LEDGER_URL. An interrupted copy goes on when it is called again.
    """
    from rich.console import Console

    from backend.errors import BadRequest
    from backend.ledger.copying import copy_ledger
    from backend.local.progress import ProgressReporter
    from backend.setting_values import ledger_url, shown_without_password

    urls = []
    for name, given in (("FROM", source), ("TO", target)):
        try:
            urls.append(ledger_url(given))
        except ValueError as error:
            raise BadRequest(
                f"{name} must be sqlite:///path or postgresql+psycopg://user:password@host/name, "
                f"got {shown_without_password(given)}."
            ) from error
    with ProgressReporter(Console(stderr=True)).step("the copy") as report:
        counts = copy_ledger(urls[0], urls[1], report)
    for table, count in counts.items():
        click.echo(f"{table}: {count}")
    click.echo(
        f"{sum(counts.values())} rows, the same in both by their digests. Next: set LEDGER_URL to "
        "TO wherever web and workers run, and start them."
    )
