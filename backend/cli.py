"""`python -m backend`: the whole system from a terminal.

Commands that read take ``--json``. Errors are sentences; the exit status is 1 when one came.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from backend.errors import BackendError, BadRequest
from backend.settings import load_settings
from backend.workplace import Workplace
from training.errors import TrainingError

PROJECT = click.option(
    "--project", "studio_id", type=int, required=True, help="Label Studio's project number."
)
ANY_PROJECT = click.option(
    "--project", "studio_id", type=int, default=None, help="One project only (default: all)."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Sentences(click.Group):
    """Turns our errors into one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BackendError, TrainingError) as error:
            click.echo(str(error), err=True)
            ctx.exit(1)


@click.group(cls=Sentences, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Committee: an active-learning backend for Label Studio.

    Settings come from the environment and .env; README.md lists them.
    """
    # Images of patients, and passwords: what we and our children make is for nobody else to read.
    os.umask(0o077)


@contextmanager
def _workplace() -> Iterator[Workplace]:
    work = Workplace(load_settings())
    try:
        work.ledger.check_schema()
        yield work
    finally:
        work.close()


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


@cli.command()
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Fill the demo project with the images of this folder instead of drawn ones.",
)
def run(images: Path | None) -> None:
    """Start everything that is missing, and stop it all on Ctrl-C (what `make run` calls)."""
    from backend.local.supervisor import run as run_all

    raise SystemExit(run_all(load_settings(), images))


@cli.command()
def migrate() -> None:
    """Bring the ledger to this release's schema; safe to repeat."""
    from backend.ledger.ledger import upgrade

    upgrade(load_settings().ledger_url)


@cli.command()
def serve() -> None:
    """Serve Label Studio's protocol (gunicorn, at HOST and PORT)."""
    from backend.ledger.ledger import upgrade
    from backend.web.serve import web_command

    settings = load_settings()
    upgrade(settings.ledger_url)
    command = web_command(settings)
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell


@cli.command()
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Jobs side by side.")
@click.option("--single", "name", default=None, hidden=True, help="One RQ worker of this name.")
def worker(workers: int | None, name: str | None) -> None:
    """Run rounds: RQ workers and the clock that hands out their jobs."""
    from backend.jobs.worker import WorkerParent, run_single
    from backend.ledger.ledger import upgrade

    _log_to_stderr()
    settings = load_settings()
    if name is not None:
        run_single(settings, name)
        return
    upgrade(settings.ledger_url)
    WorkerParent(settings, workers or settings.workers).run()


@cli.command()
@PROJECT
@click.option(
    "--options", "options_json", default=None, help="Project options, a JSON object (README.md)."
)
@AS_JSON
def connect(studio_id: int, options_json: str | None, as_json: bool) -> None:
    """Connect a Label Studio project, or mend its connection; safe to repeat."""
    from backend.actions.connect import connect_project

    with _workplace() as work:
        done = connect_project(work, studio_id, _object(options_json))
    if as_json:
        _print_json(
            {"project": studio_id, "labelled": done.labelled, "round_asked": done.round_asked}
        )
        return
    click.echo(f"Project {studio_id}, {done.project['title']!r}, is connected.")
    if done.round_asked:
        click.echo(f"{done.labelled} tasks are labelled: a round starts now.")
    else:
        click.echo(f"{done.labelled} tasks are labelled; a round starts when enough are new.")


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"--options must be a JSON object: {error}.") from error
    if not isinstance(value, dict):
        raise BadRequest(f"--options must be a JSON object, got a {type(value).__name__}.")
    return value


@cli.command()
@PROJECT
@click.option("--purge", is_flag=True, help="Remove its versions, caches and history here too.")
def disconnect(studio_id: int, purge: bool) -> None:
    """Restore a project's former settings; annotations stay."""
    from backend.actions.connect import disconnect_project

    with _workplace() as work:
        row = disconnect_project(work, studio_id, purge=purge)
    click.echo(
        f"Project {studio_id}, {row['title']!r}, is disconnected and has its former settings."
        + (" Its versions, caches and history are removed." if purge else " Its versions stay.")
    )


@cli.command()
@ANY_PROJECT
@AS_JSON
def status(studio_id: int | None, as_json: bool) -> None:
    """Projects, their rounds and versions, and which processes live."""
    from backend.insight.status import describe
    from backend.insight.status import status as read_status

    with _workplace() as work:
        found = read_status(work.ledger, studio_id)
    if as_json:
        _print_json(found)
    else:
        click.echo(describe(found))


@cli.command()
@PROJECT
@click.option("--task", "task_id", type=int, default=None, help="Also why this task stands there.")
@AS_JSON
def explain(studio_id: int, task_id: int | None, as_json: bool) -> None:
    """Which measure ranks the images, on what evidence, and why a task stands where it does."""
    from backend.insight.explain import describe
    from backend.insight.explain import explain as read_explanation

    with _workplace() as work:
        found = read_explanation(work, studio_id, task_id)
    if as_json:
        _print_json(found)
    else:
        click.echo(describe(found))


@cli.command()
@PROJECT
def retrain(studio_id: int) -> None:
    """Start a round now, however few the new labels."""
    from backend.actions.rounds import retrain as ask_for_round

    with _workplace() as work:
        asked = ask_for_round(work, studio_id)
    if asked.active_round is not None:
        click.echo(f"Round {asked.active_round} is under way; another follows it.")
    else:
        click.echo(f"A round of project {studio_id} starts now.")
    if not asked.workers:
        click.echo("No worker is alive, so it waits for one: start `python -m backend worker`.")


@cli.command()
@PROJECT
def pause(studio_id: int) -> None:
    """Start no rounds by itself; START_TRAINING and `retrain` still do."""
    from backend.actions.rounds import pause as pause_rounds

    with _workplace() as work:
        pause_rounds(work, studio_id)
    click.echo(f"Project {studio_id} is paused.")


@cli.command()
@PROJECT
def resume(studio_id: int) -> None:
    """End a pause; what was labelled meanwhile counts."""
    from backend.actions.rounds import resume as resume_rounds

    with _workplace() as work:
        resume_rounds(work, studio_id)
    click.echo(f"Project {studio_id} goes on.")


@cli.command()
@ANY_PROJECT
@AS_JSON
def versions(studio_id: int | None, as_json: bool) -> None:
    """The versions of each project: their fate, their quality, their files."""
    from backend.insight.versions import describe_versions, versions_of

    with _workplace() as work:
        found = versions_of(work, studio_id)
    if as_json:
        _print_json(found)
    else:
        click.echo(describe_versions(found))


@cli.command()
@PROJECT
@click.option("--to", "number", type=int, default=None, help="Version (default: the one before).")
def rollback(studio_id: int, number: int | None) -> None:
    """Let an earlier version rank and pre-annotate again."""
    from backend.actions.versions import roll_back

    with _workplace() as work:
        done = roll_back(work, studio_id, number)
    click.echo(f"Version {done.version} ranks again; a new publication is being made.")


@cli.command()
@ANY_PROJECT
@click.option("--fix", is_flag=True, help="Mend what can be mended from here.")
@AS_JSON
def doctor(studio_id: int | None, fix: bool, as_json: bool) -> None:
    """Look for every silent failure between Label Studio and us."""
    from backend.insight.doctor import examine, mend, report

    work = Workplace(load_settings())
    try:
        chosen = None if studio_id is None else [studio_id]
        findings = examine(work, chosen)
        if fix:
            for finding in findings:
                if finding.fixable:
                    click.echo(mend(work, finding), err=as_json)
            findings = examine(work, chosen)
    finally:
        work.close()
    if as_json:
        _print_json([finding.to_json() for finding in findings])
    else:
        click.echo(report(findings))
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)


@cli.command("map")
@click.option(
    "--task", "task_id", type=int, required=True, help="The task's number in Label Studio."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The folder to write to (default: this one).",
)
def map_(task_id: int, output: Path) -> None:
    """Draw where the version that ranks now doubts a task's image; write the same as arrays.

    task-ID-map.png shows the image, what is seen in it, the five maps of doubt with their
    scales, doubt against the distance to the nearest boundary and, if the task has an
    annotation, the error; task-ID-map.npz holds the arrays.
    """
    from backend.insight.task_map import write_task_map
    from training.figures.uncertainty_figure import arms_table

    with _workplace() as work:
        written = write_task_map(work, task_id, output)
    for problem in written.problems:
        click.echo(problem, err=True)
    for path in written.files:
        click.echo(path)
    click.echo(f"\n{arms_table(written.arms)}")


def main() -> None:
    """The entry of `python -m backend`."""
    from backend.commands.replay.replay import replay_command

    cli.add_command(replay_command, "replay")
    cli(prog_name="python -m backend")
