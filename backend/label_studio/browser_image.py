"""An image file in the form that Label Studio takes and every browser shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BrowserImage:
    """A file for upload, or the reason why there is none.

    Attributes:
        name: with an extension, unless there is a problem.
    """

    name: str
    data: bytes
    problem: str


def browser_image(path: Path, name: str) -> BrowserImage:
    """The file as every browser shows it.

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
        return BrowserImage(name, b"", f"{path}: {error}")
    kind = _shown_kind(data)
    if kind is not None:
        return BrowserImage(f"{name}.{kind}", data, "")
    return BrowserImage(f"{name}.png", encode_png(image), "")


def _shown_kind(data: bytes) -> str | None:
    """The extension of a file that browsers show as it is; None of one that must be converted."""
    if data.startswith(b"\xff\xd8"):
        return "jpg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"\x89PNG") and data[24] <= 8:  # bits per sample, in the header chunk
        return "png"
    return None
