"""Processes side by side that end when the one that started them does, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait


def process_pool(
    workers: int, initializer: Callable[[], None] | None = None
) -> ProcessPoolExecutor:
    """A pool of processes that end with this one.

    Plain ones would outlive a parent that is killed, each with its gigabyte, and wait for work
    for ever.

    Args:
        workers: how many processes.
        initializer: called in each of them before its first work.
    """
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(initializer,)
    )


def _start(initializer: Callable[[], None] | None) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a pool's process has one

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    if initializer is not None:
        initializer()
