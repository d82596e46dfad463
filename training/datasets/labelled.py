"""A labelled folder: images/, masks/ with the same stems, classes.txt.

A mask is a PNG of class indices at the size of its image, 255 where nothing is known.
classes.txt names one class per line, background first; a line may begin with its index, as in
``1 nucleus``, and ``255 ignore`` may stand at the end.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from acquisition.masks import UNKNOWN
from training.errors import TrainingError
from training.pixels import ORIENTATION_TAG, SIDEWAYS, UnreadableImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.examples import Example


HELD_BACK = 5
"""One image in so many is kept for testing: enough for a curve, and most are left to train on."""

SUFFIXES = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".btf", ".webp"),
        *(".bmp", ".gif", ".jp2", ".j2k", ".jpx"),
    }
)

LISTED_VALUES = 6
"""Values of masks that a sentence names."""

_COLOURS = (
    "Colours say nothing of an index: write the class's index for each colour, such as "
    "index[(mask == (255, 0, 0)).all(axis=-1)] = 1, and save index as an 8-bit grey PNG."
)
_DEEP = (
    "16 bits are what tools write for instance ids: write the class's index in their place, such "
    "as (mask > 0).astype('uint8') for class 1."
)
_CONVERSIONS = {
    "RGB": _COLOURS,
    "RGBA": _COLOURS,
    "I": _DEEP,
    "I;16": _DEEP,
    "I;16B": _DEEP,
    "1": "It is a binary mask of one bit: save mask.astype('uint8') for class 1.",
}

_SPREAD = {"L;2": 255 // 3, "L;4": 255 // 15}


_NO_IMAGE = (OSError, UnidentifiedImageError, Image.DecompressionBombError)


class BadFolder(TrainingError):
    """A labelled folder is not what it should be; every fault is a line."""


@dataclass(frozen=True)
class Labelled:
    """One image and its mask, on disk."""

    image: Path
    mask: Path

    @property
    def name(self) -> str:
        return self.image.name


@dataclass(frozen=True)
class LabelledFolder:
    """Images with their masks, by name.

    Attributes:
        classes: names by index; the first is "background".
    """

    root: Path
    classes: tuple[str, ...]
    items: tuple[Labelled, ...]

    def read_example(self, item: Labelled, key: str, max_side_px: int) -> Example:
        """Image and mask at the network's resolution, by this key.

        Raises:
            UnreadableImage: says which and why.
            BadFolder: see ``read_mask``.
        """
        from training.examples import make_example

        return make_example(key, read_image(item.image), self.read_mask(item), max_side_px)

    def read_mask(self, item: Labelled) -> NDArray[np.uint8]:
        """Class indices, uint8 [H, W], 255 unknown.

        Raises:
            BadFolder: it is no PNG of class indices, or holds one that classes.txt lacks.
        """
        mask = read_indices(item.mask)
        beyond = indices_beyond(mask, len(self.classes))
        if beyond:
            raise BadFolder(
                f"{item.mask} holds the class index {beyond[0]}, but classes.txt names "
                f"{len(self.classes)} classes (0 to {len(self.classes) - 1}, and 255 for unknown)."
            )
        return mask

    def split(self) -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
        """(training, held back): a fixed fifth, by a hash of the file names, is held back.

        The same folder is always split alike, whatever the seed; training images come in the
        hash's order too, so that any first few of them are a random few.
        """
        shuffled = by_hash(self.items)
        held_back = max(1, round(len(shuffled) / HELD_BACK))
        return tuple(shuffled[held_back:]), tuple(shuffled[:held_back])


def by_hash(items: Sequence[Labelled]) -> list[Labelled]:
    """In the order of a hash of their names: by chance, and the same on every machine."""
    return sorted(items, key=lambda item: _hash(item.name))


def read_labelled_folder(root: Path) -> LabelledFolder:
    """Find the images of a labelled folder and check that each has a mask of its size.

    Raises:
        BadFolder: what is missing or wrong, a line each (at most ten).
    """
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise BadFolder(
                f"A labelled folder holds images/, masks/ and classes.txt; {root} has no {name}/."
            )
    classes = read_classes(root / "classes.txt")
    images = sorted(p for p in (root / "images").iterdir() if p.suffix.lower() in SUFFIXES)
    if len(images) < 2:
        raise BadFolder(
            f"{root / 'images'} must hold at least one image to learn from and one to test with "
            f"({', '.join(sorted(SUFFIXES))}), got {len(images)}."
        )
    items, faults = [], []
    for image in images:
        item = Labelled(image, root / "masks" / f"{image.stem}.png")
        fault = _fault(item)
        if fault is None:
            items.append(item)
        else:
            faults.append(fault)
    faults += _twins(images)
    if faults:
        more = [f"and {len(faults) - 10} more such faults."] if len(faults) > 10 else []
        raise BadFolder("\n".join([*faults[:10], *more]))
    return LabelledFolder(root, classes, tuple(items))


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names by index, background first; a 255 line is no class.

    Raises:
        BadFolder: no such file, no background, a gap, or a name given twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows begins files by a mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadFolder(f"{path} must be a text file, one class per line ({error}).") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [re.fullmatch(r"(\d+)[\s:,]+(\S.*)", line) for line in lines]
    if lines and all(numbered):
        pairs = [(int(found[1]), found[2]) for found in numbered if found]
        pairs = [(index, name) for index, name in pairs if index != UNKNOWN]
        if [index for index, _ in pairs] != list(range(len(pairs))):
            raise BadFolder(
                f"{path} must number its classes 0, 1, 2 and so on in order (255 apart), got "
                f"{', '.join(str(index) for index, _ in pairs)}."
            )
        names = [name for _, name in pairs]
    else:
        names = lines
    if len(names) < 2 or names[0].lower() != "background":
        got = ", ".join(names[:3]) or "nothing"
        raise BadFolder(f"{path} must name background first and a class after it, got {got}.")
    if len(names) > UNKNOWN:
        raise BadFolder(f"{path} must name at most {UNKNOWN} classes, got {len(names)}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadFolder(f"{path} names {twice[0]!r} twice.")
    return ("background", *names[1:])


def _fault(item: Labelled) -> str | None:
    """What is wrong with an image or its mask, by their headers alone."""
    if not item.mask.is_file():
        return f"{item.image} has no mask: {item.mask} is missing."
    sizes = []
    for path in (item.image, item.mask):
        try:
            sizes.append(_shown_size(path))
        except (*_NO_IMAGE, UnreadableImage) as error:
            return f"{path} cannot be read as an image ({error})."
    if sizes[0] != sizes[1]:
        (width, height), (mask_width, mask_height) = sizes
        return (
            f"{item.mask} is {mask_width} x {mask_height} px, its image {width} x {height} px: "
            "they must be of one size."
        )
    return None


def _shown_size(path: Path) -> tuple[int, int]:
    """(width, height) as a browser shows it, which rotates the image by its EXIF orientation."""
    from training.tiff.reading import is_tiff, shown_size

    with path.open("rb") as file:
        if is_tiff(file.read(4)):
            return shown_size(file)
    with Image.open(path) as header:
        width, height = header.size
        # Browsers turn no others (``training.images``).
        turns = header.format in ("JPEG", "MPO", "PNG")
        turned = turns and header.getexif().get(ORIENTATION_TAG) in SIDEWAYS
    return (height, width) if turned else (width, height)


def _twins(images: Sequence[Path]) -> list[str]:
    stems = [image.stem for image in images]
    return [
        f"{image} shares its stem with another image, and so its mask: rename one."
        for image in images
        if stems.count(image.stem) > 1
    ]


def read_image(path: Path) -> NDArray[np.uint8]:
    """[H, W, 3] RGB, as ``training.images.read_image`` reads it.

    Raises:
        UnreadableImage: says which and why.
        OSError: there is no such file.
    """
    # Who only lists a folder must not need OpenCV.
    from training import images

    try:
        with path.open("rb") as file:
            return images.read_image(file).image
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error


def check_masks(folder: LabelledFolder) -> None:
    """Refuse a folder whose masks cannot mean what its classes.txt says. Reads every mask.

    Raises:
        BadFolder: a mask is no 8-bit PNG of indices, holds an index that classes.txt does not
            name, or a class stands in no mask; with the values, files, and how to convert them.
    """
    files: dict[int, list[Path]] = {}
    for item in folder.items:
        for index in np.unique(read_indices(item.mask)).tolist():
            files.setdefault(index, []).append(item.mask)
    classes, found = len(folder.classes), sorted(files)
    beyond = [index for index in found if classes <= index < UNKNOWN]
    absent = [index for index in range(1, classes) if index not in files]
    if not beyond and not absent:
        return
    counted = [
        f"{index} in {len(files[index])} ({files[index][0].name} for one)"
        for index in found[:LISTED_VALUES]
    ]
    more = [f"and {len(found) - LISTED_VALUES} more"] * (len(found) > LISTED_VALUES)
    wrong = []
    if absent:
        named = ", ".join(f"{index} ({folder.classes[index]})" for index in absent[:LISTED_VALUES])
        wrong.append(f"no mask holds {named}, which classes.txt names")
    if beyond:
        some = ", ".join(map(str, beyond[:LISTED_VALUES]))
        wrong.append(
            f"masks hold {some}{', ...' * (len(beyond) > LISTED_VALUES)}, which "
            "classes.txt does not name"
        )
    raise BadFolder(
        f"The masks in {folder.root / 'masks'} cannot mean what classes.txt says: "
        f"{', and '.join(wrong)}. They hold, of {len(folder.items)} files: "
        f"{', '.join([*counted, *more])}. {_how_to_convert(found, beyond, absent)}"
    )


def _how_to_convert(found: Sequence[int], beyond: Sequence[int], absent: Sequence[int]) -> str:
    foreground = [index for index in found if index != 0]
    if len(foreground) == 1 and foreground[0] in (*beyond, UNKNOWN):
        value = foreground[0]
        meant = f", and {UNKNOWN} means unknown here" if value == UNKNOWN else ""
        return (
            f"They look like binary masks of 0 and {value}, as other tools write them{meant}: "
            f"write the class's index where they hold {value}, such as "
            "(mask > 0).astype('uint8') for class 1."
        )
    if len(beyond) > 1:
        return (
            "They look like instance ids (one value for each object) or levels of grey, as other "
            "tools write them: write the class's index in their place, such as "
            "(mask > 0).astype('uint8') for class 1."
        )
    if absent and not beyond:
        return (
            "Take a class that nothing shows out of classes.txt, and give those after it their "
            "new indices in the masks; or add images that show it."
        )
    return "Name every class in classes.txt by the index that the masks hold, from 0 without gaps."


def indices_beyond(mask: NDArray[np.uint8], classes: int) -> list[int]:
    """The indices in a mask that are neither a class nor 255, ascending."""
    return sorted({int(i) for i in np.unique(mask)} - {*range(classes), UNKNOWN})


def read_indices(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as mask:
            mode = mask.mode
            packed = mask.tile[0].args if mask.tile else None
            indices = np.asarray(mask)
    except _NO_IMAGE as error:
        raise BadFolder(f"{path} cannot be read as an image ({error}).") from error
    # Palette images hold their indices too; colours and 16 bits are something else.
    if mode not in ("L", "P") or indices.dtype != np.uint8:
        raise BadFolder(
            f"{path} must be an 8-bit PNG of class indices, got one of mode {mode}. "
            + _CONVERSIONS.get(mode, "Write each pixel's class index as an 8-bit grey PNG.")
        )
    # Pillow spreads the values of fewer bits over 0 to 255.
    return indices // _SPREAD[packed] if packed in _SPREAD else indices


def _hash(name: str) -> str:
    return hashlib.sha256(os.fsencode(f"held back:{name}")).hexdigest()
