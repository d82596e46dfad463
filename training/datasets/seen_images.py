"""How each image of a folder will be seen: a PNG for each, and a table that says what was read."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from training.datasets.labelled import SUFFIXES
from training.errors import TrainingError
from training.pixels import UnreadableImage

TABLE = "images.csv"


class BadOutput(TrainingError):
    """The PNGs would lie among the images, or there are no files."""


@dataclass(frozen=True)
class SeenImage:
    """A row of the table; empty where it does not apply.

    Attributes:
        file: within the folder.
        png: within the output folder.
        size: width x height in pixels, upright.
        bits, channels, page, stretch: as ``training.pixels.Decoded`` has them.
        refusal: why it is not read.
    """

    file: str
    png: str = ""
    size: str = ""
    bits: str = ""
    channels: str = ""
    page: str = ""
    stretch: str = ""
    refusal: str = ""


def write_seen_images(
    folder: Path, output: Path, channels: Sequence[int] | None = None
) -> Iterator[SeenImage]:
    """Write ``output/NAME.png`` for each image of a folder and its subfolders, and the table.

    Args:
        channels: as ``training.images.read_image`` takes them.

    Yields:
        Each file's row, once it is written.

    Raises:
        BadOutput: there is nothing to do, or it would overwrite the images.
        OSError: the output folder cannot be written to.
    """
    if output.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise BadOutput(
            "--output must be another folder than the images' own and none around it, "
            f"got {output}."
        )
    files = [path for path in sorted(folder.rglob("*")) if _is_wanted(path, output)]
    if not files:
        raise BadOutput(f"{folder} holds no files.")
    output.mkdir(parents=True, exist_ok=True)
    taken: set[Path] = set()
    with (output / TABLE).open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(field.name for field in fields(SeenImage))
        for path in files:
            inside = path.relative_to(folder)
            png = inside.with_suffix(".png")
            if png in taken:  # another file of this stem was there
                png = inside.with_name(f"{inside.name}.png")
            taken.add(png)
            seen = _write(path, inside, output, png, channels)
            writer.writerow(getattr(seen, field.name) for field in fields(SeenImage))
            yield seen


def _is_wanted(path: Path, output: Path) -> bool:
    """A file, neither hidden nor our own."""
    return path.name[0] != "." and path.is_file() and output.resolve() not in path.resolve().parents


def _as_text(path: Path) -> str:
    """The path in UTF-8; what a name from another system holds beside that as ``\\udce4``."""
    return str(path).encode(errors="backslashreplace").decode()


def _write(
    path: Path, inside: Path, output: Path, png: Path, channels: Sequence[int] | None
) -> SeenImage:
    from training.images import encode_png, read_image

    name = _as_text(inside)
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(sorted(SUFFIXES))
        return SeenImage(
            name,
            refusal=f"its name does not end as an image's ({known}); export a microscope's own "
            "format as OME-TIFF",
        )
    try:
        with path.open("rb") as file:
            read = read_image(file, channels=channels)
    except (UnreadableImage, OSError) as error:
        return SeenImage(name, refusal=str(error))
    target = output / png
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_png(read.image))
    height, width = read.image.shape[:2]
    return SeenImage(
        *(name, _as_text(png), f"{width} x {height}"),
        *(read.bits, read.channels, read.page, read.stretch),
    )
