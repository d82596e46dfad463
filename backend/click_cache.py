"""What clicks are answered from, for the last images that somebody clicked on.

Files under DATA_DIR, so that a click that another process of the web answers needs no network
either.
"""

from __future__ import annotations

import io
import logging
import os
import zipfile
from contextlib import suppress
from hashlib import blake2s
from pathlib import Path

import numpy as np

from training.files import write_atomically
from training.particles.clicked import Predicted

log = logging.getLogger(__name__)

MOST_IMAGES, MOST_BYTES = 32, 256 * 2**20
"""An image of 1024 px takes 6 MB, one of 4096 px some 90."""


def clicks_folder(data_dir: Path) -> Path:
    """Where the files are, in a folder for each project."""
    return data_dir / "cache" / "clicks"


class ClickCache:
    """Predictions by what they were made of; the least recently used ones go first.

    Args:
        folder: made when it is first written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, project: str, *key: object) -> Predicted | None:
        path = self._path(project, key)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
                predicted = Predicted(
                    found["image"],
                    found["foreground"],
                    found["numbers"],
                    dict(zip(found["classes"].tolist(), found["px"].tolist(), strict=True)),
                )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged and is made anew: %s", path, error)
            return None
        with suppress(FileNotFoundError):  # another process may have made room
            os.utime(path)
        return predicted

    def write(self, predicted: Predicted, project: str, *key: object) -> None:
        data = io.BytesIO()
        np.savez(
            data,
            image=predicted.image,
            foreground=predicted.foreground,
            numbers=predicted.numbers,
            classes=np.array(list(predicted.diameters_px), np.str_),
            px=np.array(list(predicted.diameters_px.values()), np.float64),
        )
        if data.tell() <= MOST_BYTES:
            write_atomically(self._path(project, key), data.getvalue(), private=True)
            self._make_room()

    def _path(self, project: str, key: tuple[object, ...]) -> Path:
        name = blake2s(repr(key).encode(), digest_size=16).hexdigest()
        return self._folder / project / f"{name}.npz"

    def _make_room(self) -> None:
        found = []
        for path in self._folder.glob("*/*.npz"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = 0
        for n, (_, size, path) in enumerate(sorted(found, reverse=True), start=1):
            total += size
            if n > MOST_IMAGES or total > MOST_BYTES:
                path.unlink(missing_ok=True)
