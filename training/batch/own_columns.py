"""Columns of the user's own, such as patient or session, from a CSV file, for each image."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.errors import TrainingError

LISTED = 5
"""Names that a sentence lists."""


class BadColumns(TrainingError):
    """A file of columns cannot be joined to the images."""


@dataclass(frozen=True)
class OwnColumns:
    """What the user's file says of the images.

    Attributes:
        names: of the columns, the images' left out.
        values: image file to its values.
        notes: what was not joined, a sentence each.
    """

    names: tuple[str, ...] = ()
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, file: str) -> tuple[str, ...]:
        """An image's values, in the order of the names; empty texts where there are none."""
        return self.values.get(file, ("",) * len(self.names))


def read_own_columns(path: Path, files: Sequence[str], taken: Sequence[str]) -> OwnColumns:
    """Read a CSV file with a head, whose first column names images by path or by name.

    Args:
        files: the images, as paths within their folder with ``/``.
        taken: names of columns that the tables have already.

    Raises:
        BadColumns: it is no such file; a column's name is missing, taken or doubled, or two rows
            of an image differ.
        OSError: there is no such file.
    """
    head, rows = _read(path)
    names = tuple(head[1:])
    if "" in names:  # what a spreadsheet leaves behind its last column
        raise BadColumns(
            f"{path} has a column without a name, number {names.index('') + 2}: name or remove it."
        )
    doubled = [name for name, count in Counter(names).items() if count > 1 or name in taken]
    if doubled:
        raise BadColumns(
            f"{path} has the column {doubled[0]!r}, which the tables have already: rename it."
        )
    by_name: dict[str, list[str]] = {}
    for file in files:
        by_name.setdefault(file.rsplit("/", 1)[-1], []).append(file)
    known = set(files)
    values: dict[str, tuple[str, ...]] = {}
    unknown: list[str] = []
    ambiguous: list[str] = []
    for line, row in rows:
        image = row[0].strip().replace("\\", "/").removeprefix("./")
        found = [image] if image in known else by_name.get(image, [])
        if len(found) != 1:
            (ambiguous if found else unknown).append(image)
            continue
        own = tuple(cell.strip() for cell in row[1:])
        if values.setdefault(found[0], own) != own:
            raise BadColumns(
                f"{path}, line {line}: {image} has a row already, and this one says otherwise. "
                "Keep one of them."
            )
    missing = [file for file in files if file not in values]
    notes = [
        f"{len(which)} {what}: {', '.join(which[:LISTED])}{', ...' * (len(which) > LISTED)}."
        for which, what in (
            (unknown, f"rows of {path} name no image of the folder"),
            (ambiguous, f"rows of {path} name several images (write their paths)"),
            (missing, f"images have no row in {path}, and empty cells"),
        )
        if which
    ]
    return OwnColumns(names, values, tuple(notes))


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The head, and each row with its line; with commas, semicolons or tabs between."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel begins files by a mark
    except UnicodeDecodeError as error:
        raise BadColumns(f'{path} is not in UTF-8 ({error}): save it as "CSV UTF-8".') from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise BadColumns(f"{path}, line {reader.line_num}: {error}.") from error
    if not rows or len(rows[0][1]) < 2:
        raise BadColumns(
            f"{path} must have a head, image paths or names in its first column, and a column more."
        )
    head = [cell.strip() for cell in rows[0][1]]
    for line, row in rows:
        if len(row) != len(head):
            raise BadColumns(f"{path}, line {line}: has {len(row)} cells, the head {len(head)}.")
    return head, rows[1:]
