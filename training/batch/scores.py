"""What is known of a picture that nobody labels yet: a line in a file of many."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from training.errors import TrainingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCKS = "block-*.jsonl.gz"


class NoScores(TrainingError):
    """A folder holds no scores, or damaged ones."""


@dataclass(frozen=True)
class PictureScores:
    """Scores of one picture of a manifest.

    Attributes:
        image: its address.
        data: what else its line of the manifest holds.
        arms: arm to score.
        features: [F]; None where one is not finite.
        class_scores: [C] of the version's classes.
    """

    image: str
    data: Mapping[str, Any]
    arms: Mapping[str, float]
    features: NDArray[np.float16] | None
    class_scores: NDArray[np.float32]

    def line(self) -> bytes:
        features = self.features
        return orjson.dumps(
            {
                "image": self.image,
                "data": self.data,
                "arms": self.arms,
                "class_scores": self.class_scores.tolist(),
                # An eighth of their length as JSON numbers.
                "features": None if features is None else base64.b64encode(features.data).decode(),
            }
        )


def refused_line(image: str, data: Mapping[str, Any], why: str) -> bytes:
    """The line of a picture that could not be read."""
    return orjson.dumps({"image": image, "data": data, "refused": why})


def pack(lines: list[bytes]) -> bytes:
    """A block of lines, as its file holds them: the same bytes of the same lines."""
    return gzip.compress(b"\n".join(lines), 1, mtime=0)


def score_files(folder: Path) -> list[Path]:
    """All files of scores below a folder.

    Raises:
        NoScores: there are none.
    """
    files = sorted(folder.rglob(BLOCKS))
    if not files:
        raise NoScores(
            f"{folder} holds no scores: name the --output of `python -m training infer`."
        )
    return files


def scored_by(files: Iterable[Path]) -> set[str]:
    """The versions that made files of scores, as ``training.batch.folder.version_of`` names them.

    Raises:
        NoScores: a folder does not say which.
    """
    from training.datasets.seen_images import RESULTS

    versions = set()
    for folder in {path.parent for path in files}:
        try:
            versions.add(str(json.loads((folder / RESULTS).read_bytes())["version"]))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise NoScores(f"{folder / RESULTS} is missing or damaged: {error}.") from error
    return versions


def read_scores(path: Path) -> Iterator[PictureScores]:
    """The scores of one file; pictures that could not be read are left out.

    Raises:
        NoScores: it is damaged.
    """
    import numpy as np

    try:
        entries = [orjson.loads(line) for line in gzip.decompress(path.read_bytes()).split(b"\n")]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise NoScores(
            f"{path} is damaged ({error}): delete it, and the same `python -m training infer` "
            "makes it again."
        ) from error
    for entry in entries:
        if "refused" in entry:
            continue
        features = entry["features"]
        yield PictureScores(
            entry["image"],
            entry["data"],
            entry["arms"],
            None if features is None else np.frombuffer(base64.b64decode(features), "<f2"),
            np.array(entry["class_scores"], np.float32),
        )


def halved(features: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """Features [F] in half precision; None where one is not finite, as of a laboratory's own
    network it may be."""
    import numpy as np

    if not np.isfinite(features).all():
        return None
    largest = float(np.finfo(np.float16).max)
    return features.clip(-largest, largest).astype("<f2")
