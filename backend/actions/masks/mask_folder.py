"""Masks that a laboratory has already, in the forms in which tools write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acquisition.masks import BACKGROUND, UNKNOWN
from backend.actions.masks.cellpose import read_cellpose
from backend.actions.masks.class_names import ClassNames
from backend.actions.masks.coco import is_coco, read_coco
from backend.actions.masks.given import BadMask, Given, Labels
from backend.errors import BadRequest
from backend.label_studio.image_paths import without_ending
from backend.label_studio.regions import MOST_RESULTS, ClassMask
from training.datasets.labelled import read_classes
from training.files import read_plain_file
from training.images import DAMAGE, quiet_decoders
from training.particles.instances import Instances
from training.pixels import MAX_PIXELS

ENDINGS = (".png", ".tif", ".tiff")
CELLPOSE = "_seg.npy"

MASK_FOLDERS = ("masks", "labelsTr")
"""Of a labelled folder, and of a data set of nnU-Net; ``export-masks`` writes both."""

IMAGE_FOLDERS = ("images", "imagesTr", "imagesTs")

SAMPLE_FORMAT = 339
"""TIFF's tag for how the bits of a number are meant."""

LISTED = 8
"""Values or names that a sentence lists."""

MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F")
"""Of Pillow, with one number for each pixel."""


def find_masks(folder: Path, names: ClassNames, label: str | None) -> tuple[str, list[Given]]:
    """The masks of a folder, in whichever form they are, and that form in words.

    Args:
        folder: or a COCO file.
        label: what the particles of masks that number them are.

    Raises:
        BadRequest: there are none, or it cannot be told what they are.
    """
    root = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), folder)
    if root == folder and (described := _coco_in(folder)) is not None:
        return "COCO", read_coco(described, names)
    cells = _files(root, (CELLPOSE,))
    if cells:
        index = _needed(label, names, "Cellpose's masks number cells")
        return "Cellpose", [
            Given(_name(path, root, CELLPOSE), str(path), partial(_read_cells, path, index))
            for path in cells
        ]
    files = _files(root, ENDINGS)
    if not files:
        raise BadRequest(
            f"{folder} holds no masks: expected PNG or TIFF, {CELLPOSE} of Cellpose, or a COCO "
            "file, there or in masks/ or labelsTr/."
        )
    if label is not None:
        index = names.label(label)
        return "particles by number", [
            Given(_name(path, root), str(path), partial(_read_particles, path, index))
            for path in files
        ]
    listed = _listed_classes((root, root.parent if root != folder else folder))
    by_class = _by_folder(files, root, names)
    if not by_class and not listed:  # a list says what the values are, whatever images are called
        by_class = _by_suffix(files, root, names)
    if by_class:
        return "one file per class", [
            Given(name, ", ".join(str(path) for _, path in parts), partial(_read_parts, parts))
            for name, parts in by_class.items()
        ]
    return "class indices", [
        Given(_name(path, root), str(path), partial(_read_indices, path, names, listed))
        for path in files
    ]


def _files(root: Path, endings: Sequence[str]) -> list[Path]:
    found = (path for path in root.rglob("*") if path.name.lower().endswith(tuple(endings)))
    return sorted(
        path
        for path in found
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.relative_to(root).parts[0] not in IMAGE_FOLDERS
    )


def _name(path: Path, root: Path, ending: str = "") -> str:
    """The path within ``root`` without its ending."""
    relative = path.relative_to(root).as_posix()
    return relative[: -len(ending)] if ending else without_ending(relative)


def _needed(label: str | None, names: ClassNames, why: str) -> int:
    if label is None:
        raise BadRequest(f"{why} and do not say of what: add --class LABEL ({names.labels}).")
    return names.label(label)


def _coco_in(folder: Path) -> Path | None:
    """The COCO file that is meant, if one is."""
    if folder.is_file():
        return folder
    found = [
        path
        for path in sorted((*folder.glob("*.json"), *folder.glob("annotations/*.json")))
        if is_coco(path)
    ]
    if len(found) > 1:
        raise BadRequest(
            f"{folder} holds {len(found)} COCO files: name one of them, such as {found[0]}."
        )
    return found[0] if found else None


# One file per class


def _by_folder(
    files: Iterable[Path], root: Path, names: ClassNames
) -> dict[str, list[tuple[int, Path]]]:
    """{name: its class and file} where each folder within ``root`` has a class's name."""
    masks: dict[str, list[tuple[int, Path]]] = {}
    for path in files:
        first, *rest = path.relative_to(root).parts
        index = names.named(first) if rest else None
        if index is None:
            return {}
        masks.setdefault(_name(path, root / first), []).append((index, path))
    return masks


def _by_suffix(
    files: Iterable[Path], root: Path, names: ClassNames
) -> dict[str, list[tuple[int, Path]]]:
    """{name: its class and file} where each file's name ends with a class's."""
    masks: dict[str, list[tuple[int, Path]]] = {}
    for path in files:
        name = _name(path, root)
        # The longest ending that is a class: labels may hold the sign itself.
        cuts = [at for at, sign in enumerate(name) if sign in "_-" and at > name.rfind("/") + 1]
        found = ((at, names.named(name[at + 1 :])) for at in cuts)
        cut, index = next(((at, i) for at, i in found if i is not None), (0, None))
        if index is None:
            return {}
        masks.setdefault(name[:cut], []).append((index, path))
    return masks


def _read_parts(parts: Sequence[tuple[int, Path]]) -> Labels:
    """Class by class in the order of the project's: a later one is drawn over an earlier one."""
    mask: ClassMask | None = None
    for index, path in sorted(parts):
        inside = _values(path) != 0
        if mask is None:
            mask = np.zeros(inside.shape, np.uint8)
        if inside.shape != mask.shape:
            raise BadMask("the files of its classes are of different sizes.")
        mask[inside] = index
    assert mask is not None  # there is at least one file
    return Labels(mask)


# Class indices


def _listed_classes(folders: Iterable[Path]) -> dict[int, str]:
    """{value: name} as classes.txt or nnU-Net's dataset.json has it; empty where neither is."""
    for folder in folders:
        if (folder / "classes.txt").is_file():
            return dict(enumerate(read_classes(folder / "classes.txt")))
        if (folder / "dataset.json").is_file():
            try:
                labels = json.loads(read_plain_file(folder / "dataset.json"))["labels"]
                return {int(value): str(name) for name, value in labels.items()}
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise BadRequest(
                    f"{folder / 'dataset.json'} must have nnU-Net's labels, each with one number "
                    f"({type(error).__name__})."
                ) from error
    return {}


def _read_indices(path: Path, names: ClassNames, listed: Mapping[int, str]) -> Labels:
    values = _values(path)
    present = np.unique(values).tolist()
    binary = UNKNOWN in present and set(present) <= {0, UNKNOWN}
    if binary and not listed and not names.is_chosen(UNKNOWN):
        raise BadMask(
            "it holds 0 and 255 only, and 255 means unknown: if it is a binary mask, add "
            "--map 255=LABEL; if it is not, --map 255=unknown."
        )
    known = {value: names.valued(value, listed) for value in present}
    strange = [value for value, index in known.items() if index is None]
    if strange:
        named = [f"{v} ({listed[v]})" if v in listed else str(v) for v in strange[:LISTED]]
        more = f" and {len(strange) - LISTED} more" if len(strange) > LISTED else ""
        raise BadMask(
            f"nothing says which label {', '.join(named)}{more} is: add "
            f"--map {strange[0]}=LABEL for each ({names.labels}), or --class LABEL if its values "
            "number particles."
        )
    mask = np.zeros(values.shape, np.uint8)
    for value, index in known.items():
        if index:
            mask[values == value] = index
    return Labels(mask)


# Particles by number


def _read_particles(path: Path, index: int) -> Labels:
    return particles(_values(path), index)


def _read_cells(path: Path, index: int) -> Labels:
    return particles(read_cellpose(path), index)


def particles(values: NDArray[Any], index: int) -> Labels:
    """Particles of one class from a mask that numbers them; of a binary mask its parts."""
    _check_size(values.shape[1], values.shape[0])
    if values.dtype.kind == "i" and int(values.min()) < 0:
        raise BadMask(f"particles are numbered from 1, it holds {values.min()}.")
    present, numbers = np.unique(values, return_inverse=True)
    numbers = numbers.reshape(values.shape).astype(np.int32)
    if present[0] != 0:
        numbers += 1
    count = int(numbers.max())
    if count > MOST_RESULTS:
        raise BadMask(f"it holds {count} values, more than {MOST_RESULTS} particles: is it a mask?")
    mask = np.where(numbers > 0, np.uint8(index), np.uint8(BACKGROUND))
    if count <= 1 or index in (BACKGROUND, UNKNOWN):
        return Labels(mask)
    return Labels(mask, Instances(numbers, np.full(count, index, np.uint8)))


def _values(path: Path) -> NDArray[Any]:
    """[H, W] the whole numbers of a PNG or TIFF, as they are.

    Raises:
        BadMask: it is damaged, too large, in colour, of several pages, or has fractions.
    """
    try:
        with quiet_decoders(), Image.open(path, formats=("PNG", "TIFF")) as opened:
            _check_size(*opened.size)
            if getattr(opened, "n_frames", 1) > 1:
                raise BadMask("it has several pages: write the mask as a file of one page.")
            if opened.mode not in MODES:
                raise BadMask(
                    f"it is in colour ({opened.mode}): write each pixel's class index, or the "
                    "number of its particle, as a grey PNG."
                )
            packed = opened.tile[0].args if opened.format == "PNG" and opened.tile else None
            values = np.asarray(opened)
            if opened.mode == "I" and opened.format == "TIFF" and _is_unsigned(opened):
                values = values.view(np.uint32)  # Pillow has no such mode
    except BadMask:
        raise
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadMask(f"it cannot be read as PNG or TIFF ({reason}).") from error
    if values.dtype.kind == "f":
        if not (np.abs(values) < 2**31).all() or (values != np.floor(values)).any():
            raise BadMask("its values are no whole numbers: is it a map of probabilities?")
        values = values.astype(np.int64)
    # Pillow spreads the values of fewer bits over 0 to 255.
    return values // {"L;2": 85, "L;4": 17}.get(packed, 1) if isinstance(packed, str) else values


def _is_unsigned(opened: Image.Image) -> bool:
    """Whether a TIFF's numbers are: its SampleFormat, which is 1 where it has none."""
    form = opened.tag_v2.get(SAMPLE_FORMAT, (1,))  # type: ignore[attr-defined]  # a TIFF's
    return (form if isinstance(form, int) else form[0]) == 1


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadMask(f"it has {width} x {height} pixels, and at most {MAX_PIXELS} are read.")
