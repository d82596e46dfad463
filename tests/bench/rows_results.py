"""Whole folders: what an image costs beside the members' pass, reading it and writing its mask."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from tests.bench.harness import Measured, row, spread
from tests.bench.rows_committee import SMALL, Sizes
from training.batch import folder as batch_folder
from training.batch.folder import Batch, predict_folder
from training.batch.outputs import Wanted
from training.committee.committee import Committee
from training.committee.version import write_version
from training.datasets.urine_sediment import draw_field
from training.examples import make_example
from training.files import write_atomically
from training.fitting.fit import fit_member
from training.images import encode_png, read_image
from training.pixels import Decoded

FIELDS = 9

LIMIT = 1.3
"""Times the members' pass, reading and writing: what an image may cost."""


@row(
    "results",
    "predict_folder",
    against="limit; 1.3 times the members' pass, reading the image and writing the mask",
    unit="ms",
    goal=1.0,
    sizes=Sizes(network="shared"),
    small=SMALL,
)
def predict_folder_row(sizes: Sizes) -> Measured:
    """Processor time for an image by one thread, the two in turns; loading is left out."""
    config = replace(sizes.config(), threads=1)
    size = (sizes.side_px, sizes.side_px)
    drawn = [draw_field(seed, size=size) for seed in range(6)]
    examples = [make_example(f"{n}", each.image, each.mask, 1024) for n, each in enumerate(drawn)]
    weights = [fit_member(examples, config, member)[0] for member in range(sizes.members)]
    ours: list[float] = []
    peer: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_version(root / "1", 1, weights, config, {}, {"temperature": 1.0})
        for n in range(FIELDS):
            field = draw_field(100 + n, "AB"[n % 2], size=size)
            write_atomically(root / f"images/{n}.png", encode_png(field.image))
        committee = Committee.load(root / "1", own_network=sizes.network, seal=None)
        began = 0.0

        def least(data: bytes) -> None:
            image = read_image(io.BytesIO(data)).image
            committee.engine(committee.ensemble.batch([image]))
            write_atomically(root / "mask.png", encode_png(np.zeros(size, np.uint8)))

        def show(done: int, _of: int) -> None:
            nonlocal began
            if done > 1:  # the first one loads the committee
                ours.append((time.process_time() - began) * 1e3)
            start = time.process_time()
            least((root / f"images/{max(done - 1, 0)}.png").read_bytes())
            if done > 1:
                peer.append((time.process_time() - start) * 1e3)
            began = time.process_time()

        def read_here(data: bytes, channels: tuple[int, ...] | None) -> Decoded:
            return read_image(io.BytesIO(data), channels=channels)

        # In a process of its own it would not be counted.
        with mock.patch.object(batch_folder, "read_apart", read_here):
            wanted = Wanted()
            batch = Batch(root / "images", root / "1", root / "out", wanted)
            predict_folder(replace(batch, own_network=sizes.network), show)
    return Measured(
        statistics.median(ours),
        LIMIT * statistics.median(peer),
        max(spread(ours), spread(peer)),
        f"{statistics.median(peer):.0f} ms for these",
    )
