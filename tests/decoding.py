"""Images decoded in a process of their own, and what each of them cost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

_SCRIPT = """
import pathlib, resource, sys
from training.images import decode_image
from training.pixels import UnreadableImage
{first}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    data = pathlib.Path(path).read_bytes()
    before = peak()
    try:
        refused, said = "", str(decode_image(data).shape)
    except UnreadableImage as error:
        refused, said = "refused", str(error)
    print((peak() - before) // 1024, refused, said, sep="\\t")
"""


class Told(NamedTuple):
    """What became of a file: by how many MiB the peak of memory rose, whether it was refused, and
    the refusal or the image's shape."""

    rise_mib: int
    refused: bool
    said: str


def decode_apart(folder: Path, files: Iterable[bytes], first: str = "") -> list[Told]:
    """Decode files one after another; nothing may be printed to stderr.

    Args:
        folder: to write them to.
        first: Python that runs before, such as imports that shall not count.
    """
    paths = []
    for number, data in enumerate(files):
        paths.append(folder / str(number))
        paths[-1].write_bytes(data)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", _SCRIPT.format(first=first), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.stderr == ""
    rows = (line.split("\t") for line in ended.stdout.splitlines())
    return [Told(int(rise), refused == "refused", said) for rise, refused, said in rows]
