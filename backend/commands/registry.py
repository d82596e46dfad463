"""`registry copy`: the versions go to another place."""

from __future__ import annotations

from dataclasses import asdict

import click

from backend.commands.shared import AS_JSON, print_json
from backend.settings import load_settings


@click.group()
def registry() -> None:
    """The registry: versions, examples, and what rounds under way have made."""


@registry.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@AS_JSON
def copy(source: str, target: str, as_json: bool) -> None:
    """Copy the registry at FROM to TO, and compare both.

    They are as in REGISTRY_URL. An interrupted copy goes on when it is called again.
    """
    from rich.console import Console

    from backend.errors import BadRequest
    from backend.local.progress import ProgressReporter
    from backend.setting_values import registry_url, shown_without_password
    from training.committee.store.copying import copy_registry

    urls = []
    for name, given in (("FROM", source), ("TO", target)):
        try:
            urls.append(registry_url(given))
        except ValueError as error:
            raise BadRequest(
                f"{name} must be a folder or s3://bucket/prefix, got "
                f"{shown_without_password(given)}."
            ) from error
    if urls[0] == urls[1]:
        raise BadRequest("FROM and TO are the same registry: there is nothing to copy.")
    settings = load_settings()
    stores = [settings.store(url) for url in urls]
    try:
        with ProgressReporter(Console(stderr=True)).step("the copy") as report:
            done = copy_registry(stores[0], stores[1], report)
    except OSError as error:
        raise BadRequest(f"{urls[1]} cannot be written ({error.strerror}).") from error
    finally:
        for store in stores:
            store.close()
    if as_json:
        print_json(asdict(done))
    else:
        click.echo("".join(f"{problem}\n" for problem in done.problems), nl=False)
        click.echo(
            f"{done.versions} versions and {done.files} other files are the same in both, "
            f"{done.copied} of them new ({done.copied_bytes / 1e6:.1f} MB)."
        )
    if done.problems:
        raise click.exceptions.Exit(1)
    if not as_json:
        click.echo("Next: set REGISTRY_URL to TO wherever web and workers run, and start them.")
