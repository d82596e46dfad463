"""`backup` and `restore`: all that this machine holds, kept elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from backend.commands.shared import AS_JSON, print_json
from backend.settings import load_settings

FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


@click.command()
@FOLDER
@click.option("--keep", type=click.IntRange(1, 10_000), help="Remove all but the newest N backups.")
@click.option("--verify", is_flag=True, help="Check the newest backup instead of making one.")
@AS_JSON
def backup(folder: Path, keep: int | None, verify: bool, as_json: bool) -> None:
    """Make a backup in a new folder below FOLDER, while everything runs."""
    from rich.console import Console

    from backend.actions import backup as action
    from backend.local.progress import ProgressReporter

    if verify and keep is not None:
        raise click.UsageError("--keep removes backups and --verify reads one: give one of them.")
    with ProgressReporter(Console(stderr=True)).step("the backup") as report:
        if verify:
            found = action.the_backup(folder)
            manifest = action.verify(found, report)
            if as_json:
                print_json({"folder": str(found), "files": len(manifest.files)})
            else:
                click.echo(f"{found} is whole: {len(manifest.files)} files.")
            return
        made = action.back_up(load_settings(), folder.absolute(), report)
    manifest = made.manifest
    if as_json:
        removed = 0 if keep is None else action.remove_older(folder, keep)
        print_json(
            {
                "folder": str(made.folder),
                "files": len(manifest.files),
                "copied": made.copied,
                "copied_bytes": made.copied_bytes,
                "left_out": manifest.left_out,
                "own_studio": manifest.own_studio,
                "removed": removed,
            }
        )
        return
    click.echo(
        f"{made.folder}: {len(manifest.files)} files, {made.copied} of them new "
        f"({made.copied_bytes / 1e6:.1f} MB)."
    )
    if links := [each for each in manifest.left_out if "://" not in each]:
        click.echo("Left out, since they are links or no files:")
        click.echo("\n".join(links))
    for url in (each for each in manifest.left_out if "://" in each):
        click.echo(
            f"Versions and examples are not in it: {url} must keep them by itself, such as by the "
            "bucket's versioning (docs/REGISTRY.md)."
        )
    if not manifest.own_studio:
        click.echo(
            "Annotations and images are not in it: whoever runs the Label Studio at "
            f"{manifest.label_studio_url} must back it up."
        )
    if keep is not None and (removed := action.remove_older(folder, keep)):
        click.echo(f"{removed} older backups are removed.")


@click.command()
@FOLDER
@click.option(
    "--label-studio-url",
    help="The address that the backup's Label Studio has from now on, if it is another.",
)
def restore(folder: Path, label_studio_url: str | None) -> None:
    """Put the newest backup in FOLDER, or the one that FOLDER is, into a fresh DATA_DIR."""
    from rich.console import Console

    from backend.actions.restore import restore as put_back
    from backend.errors import BadRequest
    from backend.local.progress import ProgressReporter
    from backend.setting_values import web_url

    if label_studio_url is not None:
        try:
            label_studio_url = web_url(label_studio_url)
        except ValueError as error:
            raise BadRequest(
                "--label-studio-url must be an http:// or https:// address, got "
                f"{label_studio_url!r}."
            ) from error
    settings = load_settings()
    with ProgressReporter(Console(stderr=True)).step("the restore") as report:
        done = put_back(settings, folder, label_studio_url, report)
    manifest = done.manifest
    click.echo(f"The backup of {manifest.made_at} is in {settings.data_dir}.")
    for problem in done.problems:
        click.echo(problem)
    if not manifest.own_studio and settings.label_studio_url is None:
        click.echo(
            f"Set LABEL_STUDIO_URL={done.label_studio_url} and LABEL_STUDIO_API_KEY, as on the old "
            "machine."
        )
    click.echo(
        "Next: `make run` (or `python -m backend migrate`, then `serve` and `worker`), then "
        "`python -m backend doctor --fix`."
    )
