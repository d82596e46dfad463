"""`... memory SIDE_PX MEMBERS NETWORK [CLASSES]`: MB above idle that a prediction takes."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import numpy as np
import psutil

from tests.bench.rows_committee import Sizes, class_names, untrained


def main() -> None:
    side_px, members = map(int, sys.argv[1:3])
    sizes = Sizes(members, network=sys.argv[3])
    config = replace(sizes.config(), max_side_px=side_px)
    if len(sys.argv) > 4:
        config = replace(config, classes=class_names(int(sys.argv[4])))
    committee = untrained(config)
    committee.predict(np.zeros((64, 64, 3), np.uint8))  # loaded and compiled: idle
    process = psutil.Process()
    idle = process.memory_info().rss
    image = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), np.uint8)
    # The system's own high-water mark would be that of the conversion before.
    peak, ended = idle, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    committee.predict(image).mask()
    ended.set()
    watcher.join()
    print((peak - idle) / 1e6)


if __name__ == "__main__":
    main()
