"""A user's own folder of images, in the form that browsers show."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from backend.local.errors import NoImages

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class UploadFile:
    """A file as the browser will get it, or the reason why not."""

    name: str
    data: bytes
    problem: str


def image_files(folder: Path) -> list[Path]:
    """The image files of ``folder`` and its subfolders, in order of their paths.

    Raises:
        NoImages: there are none.
    """
    try:
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in EXTENSIONS and path.is_file() and path.name[0] != "."
        )
    except OSError as error:
        raise NoImages(
            f"IMAGES must be a folder that can be read, got '{folder}' ({error})."
        ) from error
    if not found:
        raise NoImages(
            f"IMAGES must be a folder of images ({', '.join(EXTENSIONS)}), "
            f"and '{folder}' holds none."
        )
    return found


def browser_file(path: Path, name: str) -> UploadFile:
    """The file in a form that every browser shows.

    PNG, JPEG and WebP of 8 bits stay as they are. TIFF, and whatever is deeper than 8 bits, becomes
    a PNG of 8 bits; deeper values are stretched from the 0.1th and 99.9th percentile of all the
    image's values to 0-255 (``training.images.STRETCH_PERCENTILES``).

    Args:
        name: of the upload, without an extension.
    """
    from training.images import UnreadableImage, decode_image, encode_png

    try:
        data = path.read_bytes()
        image = decode_image(data)
    except (OSError, UnreadableImage) as error:
        return UploadFile(name, b"", f"{path}: {error}")
    kind = _browser_kind(data)
    if kind is not None:
        return UploadFile(f"{name}.{kind}", data, "")
    return UploadFile(f"{name}.png", encode_png(image), "")


def _browser_kind(data: bytes) -> str | None:
    """The extension of a file that browsers show as it is; None of one that must be converted."""
    if data.startswith(b"\xff\xd8"):
        return "jpg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"\x89PNG") and data[24] <= 8:  # bits per sample, in the header chunk
        return "png"
    return None


def unique_name(path: Path) -> str:
    """A file name without extension, made unique by the path's checksum."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", str(path.with_suffix("")))
    return f"{stem[-60:].strip('-') or 'image'}-{digest}"
