"""Do the intervals of counts hold? Audits are drawn again and again from images of which every
count is known, and each time it is asked whether the interval holds the true one.

    python -m training.experiments.count_coverage TABLE... --output coverage.csv

A table is a CSV with a row for each image: for each class the columns "CLASS counted", by people,
and "CLASS COMMITTEE" for each committee. docs/COUNTS.md shows what was found.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.files import write_atomically
from training.quality.counts import FEWEST_SHOWN, MOST_BEYOND, estimate_mean, share_beyond

COUNTED = "counted"
"""The column of what people counted; those of committees have a name of their own."""


class BadCounts(TrainingError):
    """A table of counts cannot be used."""


@dataclass(frozen=True)
class CountTable:
    """What people and committees counted on the same images.

    Attributes:
        name: of the set.
        counted: class name to [N].
        predicted: class name to [committees, N].
    """

    name: str
    counted: Mapping[str, NDArray[np.float64]]
    predicted: Mapping[str, NDArray[np.float64]]


def read_count_table(path: Path) -> CountTable:
    """A table of this module's kind; columns of other names are passed over.

    Raises:
        BadCounts: it lacks columns, or holds what is no number.
    """
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    columns = [name.rpartition(" ")[::2] for name in head]
    classes = [name for name, whose in columns if whose == COUNTED]
    predicted_by = {
        name: [i for i, (of, whose) in enumerate(columns) if of == name and whose != COUNTED]
        for name in classes
    }
    if not rows or not classes or not all(predicted_by.values()):
        raise BadCounts(
            f"{path} must hold a row for each image and for each class the columns "
            f"'CLASS {COUNTED}' and 'CLASS COMMITTEE', it has {', '.join(head) or 'nothing'}"
        )
    try:
        numbers = {
            i: np.array([float(row[i]) for row in rows])
            for i in range(len(head))
            if columns[i][0] in predicted_by
        }
    except (ValueError, IndexError) as error:
        raise BadCounts(f"{path} holds what is no number: {error}") from error
    counted = {name: numbers[columns.index((name, COUNTED))] for name in classes}
    predicted = {name: np.stack([numbers[i] for i in by]) for name, by in predicted_by.items()}
    return CountTable(path.stem, counted, predicted)


@dataclass(frozen=True)
class Coverage:
    """One class of one set at one number of audits, over all committees and draws.

    Attributes:
        set, class_name, images, audits: what was drawn.
        shown: audits that show the class, on average.
        given: share of the draws that give an interval.
        coverage, alone_coverage: share of these whose interval holds the true count; with the
            committee, and by the audits alone.
        least: the coverage of the committee that has the lowest.
        width: mean width over that by the audits alone.
        relative: half the mean width over the true count.
        weight: mean trust in the predictions.
    """

    set: str
    class_name: str
    images: int
    audits: int
    shown: float
    given: float
    coverage: float | None
    least: float | None
    alone_coverage: float | None
    width: float | None
    relative: float | None
    weight: float | None


def simulate(
    table: CountTable, audits: Sequence[int], draws: int, seed: int = 0
) -> Iterator[Coverage]:
    """The intervals' coverage for each class and number of audits that leaves images over.

    Args:
        draws: for each committee; the same audits for all of them.
    """
    images = len(next(iter(table.counted.values())))
    for n in audits:
        if n >= images:
            continue
        rng = np.random.default_rng([seed, n])
        drawn = np.stack([rng.permutation(images)[:n] for _ in range(draws)])
        for name, counted in table.counted.items():
            yield _coverage(table, name, counted, drawn)


def _coverage(
    table: CountTable, name: str, counted: NDArray[np.float64], drawn: NDArray[np.intp]
) -> Coverage:
    images, n = len(counted), drawn.shape[1]
    truth = float(counted.mean())
    by_people = counted[drawn]
    alone = estimate_mean(by_people, np.zeros_like(by_people), 0.0, images)
    alone_holds = (alone.low <= truth) & (truth <= alone.high)
    shown, given, holds, widths, weights = [], [], [], [], []
    for predicted in table.predicted[name]:
        ours = predicted[drawn]
        shows = ((by_people > 0) | (ours > 0)).sum(axis=1)
        found = estimate_mean(by_people, ours, float(predicted.mean()), images)
        shown.append(shows)
        reached = share_beyond(predicted, ours.max(axis=1)) <= MOST_BEYOND
        given.append((shows >= FEWEST_SHOWN) & reached & (found.high > found.low))
        holds.append((found.low <= truth) & (truth <= found.high))
        widths.append(found.high - found.low)
        weights.append(found.weight)
    there, held, wide = np.stack(given), np.stack(holds), np.stack(widths)
    told: tuple[float | None, ...] = (None,) * 6
    if there.any():
        alone_width = np.broadcast_to(alone.high - alone.low, wide.shape)[there]
        told = (
            float(held[there].mean()),
            min(float(h[g].mean()) for h, g in zip(held, there, strict=True) if g.any()),
            float(np.broadcast_to(alone_holds, held.shape)[there].mean()),
            float(wide[there].mean() / alone_width.mean()),
            float(wide[there].mean() / 2 / truth),
            float(np.stack(weights)[there].mean()),
        )
    return Coverage(
        table.name,
        name,
        images,
        n,
        float(np.stack(shown).mean()),
        float(there.mean()),
        *told,
    )


def coverage_table(rows: Sequence[Coverage]) -> list[list[str]]:
    """The rows as lines of a Markdown table, with its head; "-" where no draw gave an interval."""
    head = ["set", "class", "audits", "show it", "given", "coverage", "least", "audits alone"]
    head += ["width", "half width", "weight"]
    return [
        head,
        ["---"] * len(head),
        *(
            [
                *(row.set, row.class_name, str(row.audits)),
                *(f"{row.shown:.0f}", f"{row.given:.3f}"),
                *("-" if v is None else f"{v:.3f}" for v in astuple(row)[6:9]),
                *("-" if v is None else f"{v:.2f}" for v in astuple(row)[9:]),
            ]
            for row in rows
        ),
    ]


def write_coverage(path: Path, rows: Sequence[Coverage]) -> None:
    """The rows as CSV; shares with four digits."""
    names = [each.name.removesuffix("_name") for each in fields(Coverage)]
    lines = [names, *([_cell(value) for value in astuple(row)] for row in rows)]
    write_atomically(path, "".join(",".join(line) + "\n" for line in lines).encode())


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@click.command()
@click.argument("tables", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--audits", multiple=True, type=click.IntRange(3), default=(30, 60, 120, 300))
@click.option("--draws", type=click.IntRange(1), default=2000, help="Of each; default 2000.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(tables: Sequence[Path], audits: Sequence[int], draws: int, output: Path) -> None:
    """Draw audits from the images of TABLES, and write how often the intervals hold."""
    rows = [row for path in tables for row in simulate(read_count_table(path), audits, draws)]
    write_coverage(output, rows)
    for line in coverage_table(rows):
        click.echo("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
