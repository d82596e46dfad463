"""How each image of a folder will be seen: a PNG for each, and a table that says what was read."""

from __future__ import annotations

import csv
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from training.csv_cells import plain_cell
from training.datasets.labelled import SUFFIXES
from training.errors import TrainingError
from training.pixels import Decoded, UnreadableImage

TABLE = "images.csv"

RESULTS = "predict.json"
"""What lies in a folder of results of ``python -m training predict``."""


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
        pixel_width_um, pixel_height_um: micrometres, where the file says them.
    """

    file: str
    png: str = ""
    size: str = ""
    bits: str = ""
    channels: str = ""
    page: str = ""
    stretch: str = ""
    refusal: str = ""
    pixel_width_um: str = ""
    pixel_height_um: str = ""

    @classmethod
    def of(cls, file: Path, png: Path, read: Decoded) -> SeenImage:
        """The row of an image that was read; the paths are within their folders."""
        height, width = read.image.shape[:2]
        return cls(
            *(as_text(file), as_text(png), f"{width} x {height}"),
            *(read.bits, read.channels, read.page, read.stretch, ""),
            *(() if read.pixel_um is None else (f"{side:.6g}" for side in read.pixel_um)),
        )

    def cells(self) -> list[str]:
        return [plain_cell(getattr(self, field.name)) for field in fields(self)]


HEAD = tuple(field.name for field in fields(SeenImage))


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
    files = files_of(folder, output)
    output.mkdir(parents=True, exist_ok=True)
    taken = folders_within(folder, files)
    with (output / TABLE).open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(HEAD)
        for path in files:
            inside = path.relative_to(folder)
            png = png_for(inside, taken)
            taken.add(png)
            seen = _write(path, inside, output, png, channels)
            writer.writerow(seen.cells())
            yield seen


def files_of(folder: Path, output: Path) -> list[Path]:
    """The files of a folder and its subfolders that are neither hidden nor in the output folder.

    Folders that are not looked into are listed too, to be refused by ``refusal_by_name``: links,
    those that cannot be opened, and results of ``python -m training predict``.

    Raises:
        BadOutput: there are none, or the output would overwrite the images.
    """
    ours = output.resolve()
    if ours in (folder.resolve(), *folder.resolve().parents):
        raise BadOutput(
            "--output must be another folder than the images' own and none around it, "
            f"got {output}."
        )
    files: list[Path] = []
    unopened: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=unopened.append):
        here = Path(where)
        if here != folder and (here / RESULTS).exists():
            files.append(here)
            folders.clear()
            continue
        files += [here / name for name in names if name[0] != "."]
        files += [here / name for name in folders if name[0] != "." and (here / name).is_symlink()]
        folders[:] = [
            name for name in folders if name[0] != "." and (here / name).resolve() != ours
        ]
    files += [Path(error.filename) for error in unopened]
    if not files:
        raise BadOutput(f"{folder} holds no files.")
    return sorted(files)


def folders_within(folder: Path, files: Sequence[Path]) -> set[Path]:
    """The folders between a folder and its files: no PNG can be called as one of them."""
    return {parent for path in files for parent in path.relative_to(folder).parents}


def png_for(inside: Path, *taken: Container[Path]) -> Path:
    """Where the PNG of an image belongs; by its whole name if another of its stem was there."""
    png = inside.with_suffix(".png")
    name = inside.name
    while any(png in paths for paths in taken):
        name += ".png"
        png = inside.with_name(name)
    return png


def refusal_by_name(path: Path) -> str:
    """Why a file is not even opened; empty if it is to be."""
    if not path.is_file():
        if (path / RESULTS).exists():
            return "it is a folder of results, not of images"
        if path.is_symlink():
            return "it is a link to a folder or to nothing, and such links are not followed"
        return "it is a folder that cannot be opened, or no plain file"
    if path.suffix.lower() in SUFFIXES:
        return ""
    return (
        f"its name does not end as an image's ({', '.join(sorted(SUFFIXES))}); export a "
        "microscope's own format as OME-TIFF"
    )


def as_text(path: Path) -> str:
    """The path in UTF-8; what a name from another system holds beside that as ``\\udce4``."""
    return str(path).encode(errors="backslashreplace").decode()


def _write(
    path: Path, inside: Path, output: Path, png: Path, channels: Sequence[int] | None
) -> SeenImage:
    from training.images import encode_png, read_image

    name = as_text(inside)
    if refusal := refusal_by_name(path):
        return SeenImage(name, refusal=refusal)
    try:
        with path.open("rb") as file:
            read = read_image(file, channels=channels)
    except (UnreadableImage, OSError) as error:
        return SeenImage(name, refusal=str(error))
    target = output / png
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_png(read.image))
    return SeenImage.of(inside, png, read)
