"""What clicks are answered from, for the last images that somebody clicked on, and what the last
clicks were answered.

Files under DATA_DIR, so that a click that another process of the web answers needs no network
either.
"""

from __future__ import annotations

import io
import logging
import os
import time
import zipfile
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from training.files import write_atomically
from training.particles.clicked import Predicted

log = logging.getLogger(__name__)

_DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What damaged files end in: numpy and zipfile have no error of their own for it."""

Mask = NDArray[np.bool_]

MOST_IMAGES, MOST_BYTES = 32, 256 * 2**20
"""An image of 1024 px takes 6 MB, one of 4096 px some 90."""


UNSAVED_S = 12.0
"""How long an answer may be on the page and not in a draft: Label Studio saves every 5 s."""


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
        except _DAMAGE as error:
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
            path = self._path(project, key)
            with _as_far_as_possible(path):
                write_atomically(path, data.getvalue(), private=True)
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


@dataclass(frozen=True)
class _Answer:
    """A region as a click was answered with.

    Attributes:
        before: digests of the masks that it had, and Label Studio may still tell us.
    """

    label: str
    before: tuple[str, ...]
    mask: Mask
    at: float


class LastAnswers:
    """What the clicks of the last seconds on a task were answered, and no draft holds yet.

    Args:
        folder: as for ``ClickCache``.
    """

    def __init__(self, folder: Path, project: str, task_id: object) -> None:
        name = blake2s(repr(task_id).encode(), digest_size=16).hexdigest()
        self._path = folder / project / f"{name}.answers"
        self._answers = self._read()

    def shown(self, saved: Mapping[str, Mask], label: str) -> dict[str, Mask]:
        """Id to mask [H, W] of the regions of a class on the page, by those that were saved.

        A region that is as it was before an answer has not been saved since. One that is neither
        as before nor as answered was changed by somebody, and stays so.
        """
        late = {
            name: answer.mask
            for name, answer in self._answers.items()
            if answer.label == label and _digest(saved.get(name)) in answer.before
        }
        return {**saved, **late}

    def keep(self, saved: Mapping[str, Mask], answered: Mapping[str, Mask], label: str) -> None:
        """Remember what the click is answered with."""
        for name, mask in answered.items():
            before = {_digest(saved.get(name))}
            if (earlier := self._answers.get(name)) is not None:
                before |= {*earlier.before, _digest(earlier.mask)}
            before -= {_digest(mask)}
            self._answers[name] = _Answer(label, tuple(sorted(before)), mask, time.time())
        with _as_far_as_possible(self._path):
            write_atomically(self._path, self._packed(), private=True)
            for path in self._path.parent.glob("*.answers"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < time.time() - UNSAVED_S:
                        path.unlink()

    def _packed(self) -> bytes:
        answers = [
            {
                **{"name": name, "label": answer.label, "before": answer.before, "at": answer.at},
                "size": answer.mask.shape,
                "mask": b64encode(zlib.compress(np.packbits(answer.mask).tobytes(), 1)).decode(),
            }
            for name, answer in self._answers.items()
        ]
        return orjson.dumps(answers)

    def _read(self) -> dict[str, _Answer]:
        try:
            rows = orjson.loads(self._path.read_bytes())
            return {
                row["name"]: _Answer(row["label"], tuple(row["before"]), _unpacked(row), row["at"])
                for row in rows
                if abs(time.time() - row["at"]) < UNSAVED_S
            }
        except FileNotFoundError:
            return {}
        except _DAMAGE as error:
            log.warning("%s is damaged and left out: %s", self._path, error)
            return {}


@contextmanager
def _as_far_as_possible(path: Path) -> Iterator[None]:
    """Go on without a file where the disk is full or is not ours: the click has its answer."""
    try:
        yield
    except OSError as error:
        log.warning("%s is not kept: %s", path, error)


def _unpacked(row: Mapping[str, Any]) -> Mask:
    height, width = row["size"]
    packed = np.frombuffer(zlib.decompress(b64decode(row["mask"])), np.uint8)
    return np.unpackbits(packed, count=height * width).reshape(height, width).view(np.bool_)


def _digest(mask: Mask | None) -> str:
    """Of a mask; "" where there is none."""
    if mask is None:
        return ""
    packed = np.packbits(mask).tobytes() + repr(mask.shape).encode()
    return blake2s(packed, digest_size=16).hexdigest()
