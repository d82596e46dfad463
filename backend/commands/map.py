"""`map`: where the committee is uncertain about one image."""

from __future__ import annotations

from pathlib import Path

import click

from backend.commands.shared import AS_JSON, ID, open_workplace, print_json


@click.command("map")
@click.option(
    "--task", "task_id", type=ID, required=True, help="The task's number in Label Studio."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The folder to write to (default: this one).",
)
@AS_JSON
def map_task(task_id: int, output: Path, as_json: bool) -> None:
    """Draw where the ranking version is uncertain about a task's image; write it as arrays too.

    task-ID-map.png shows the image, what is predicted in it, the five maps of uncertainty with
    their scales, uncertainty against the distance to the nearest boundary and, if the task has an
    annotation, the error; task-ID-map.npz holds the arrays.
    """
    from backend.insight.task_map import write_task_map
    from training.figures.scales import arms_table

    with open_workplace() as work:
        written = write_task_map(work, task_id, output)
    if as_json:
        print_json(
            {
                "task": task_id,
                "files": [str(path) for path in written.files],
                "arms": dict(written.arms),
                "problems": list(written.problems),
            }
        )
        return
    for problem in written.problems:
        click.echo(problem, err=True)
    for path in written.files:
        click.echo(path)
    click.echo(f"\n{arms_table(written.arms)}")
