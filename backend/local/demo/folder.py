"""A user's own folder of images."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

from backend.local.errors import NoImages
from training.datasets.labelled import SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """The image files of ``folder`` and its subfolders, in order of their paths.

    Raises:
        NoImages: there are none.
    """
    try:
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != "."
        )
    except OSError as error:
        raise NoImages(
            f"IMAGES must be a folder that can be read, got '{folder}' ({error})."
        ) from error
    if not found:
        raise NoImages(
            f"IMAGES must be a folder of images ({', '.join(sorted(SUFFIXES))}), "
            f"and '{folder}' holds none. {skipped_files(folder)}".rstrip()
        )
    return found


def skipped_files(folder: Path) -> str:
    """A sentence on the files that are no images by their names; empty if there are none."""
    others: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.name[0] == "." and path.suffix.lower() in SUFFIXES and path.is_file():
            others["hidden"] += 1  # such as the copies that macOS makes of each file
        elif path.name[0] != "." and path.suffix.lower() not in SUFFIXES and path.is_file():
            others[path.suffix.lower() or "without an extension"] += 1
    if not others:
        return ""
    counted = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
    return (
        f"{others.total()} files in '{folder}' were skipped, because their names are not those of "
        f"images ({', '.join(sorted(SUFFIXES))}): {counted}. Export a microscope's own format, "
        "such as .czi, .nd2 or .lif, as OME-TIFF."
    )


def unique_name(path: Path) -> str:
    """A file name without extension, made unique by the path's checksum."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", str(path.with_suffix("")))
    return f"{stem[-60:].strip('-') or 'image'}-{digest}"
