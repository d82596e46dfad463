"""An image file in the form that Label Studio takes and every browser shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BrowserImage:
    """A file for upload, or the reason why there is none.

    Attributes:
        name: with an extension, unless there is a problem.
        part: what of the file it shows, where that is not all, as "page 1 of 3".
    """

    name: str
    data: bytes
    problem: str
    part: str = ""


def browser_image(path: Path, name: str) -> BrowserImage:
    """The file as every browser shows it.

    PNG, JPEG and WebP of 8 bits stay as they are. Every other kind, and whatever is deeper than 8
    bits, becomes a PNG of 8 bits, as ``training.images.read_image`` reads it.

    Args:
        name: of the upload, without an extension.
    """
    from training.images import encode_png, read_image
    from training.pixels import UnreadableImage

    try:
        with path.open("rb") as file:
            read = read_image(file)
            file.seek(0)
            kind = _shown_kind(file.read(32))
        data = encode_png(read.image) if kind is None else path.read_bytes()
    except (OSError, UnreadableImage) as error:
        shown = str(path).encode(errors="backslashreplace").decode()  # a name may be no UTF-8
        return BrowserImage(name, b"", f"{shown}: {error}")
    return BrowserImage(f"{name}.{kind or 'png'}", data, "", read.part)


def _shown_kind(head: bytes) -> str | None:
    """The extension of a file that browsers show as it is; None of one that must be converted."""
    if head.startswith(b"\xff\xd8"):
        return "jpg"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(b"\x89PNG") and head[24] <= 8:  # bits per sample, in the header chunk
        return "png"
    return None
