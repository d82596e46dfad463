"""Active learning simulated on a labelled folder, to find which strategy needs fewest labels.

A *path* is one strategy with one seed: an initial set, then rounds in which the strategy chooses,
the truth answers and the committee is trained anew. Every round is one line of JSON, written when
the round is done; an interrupted path goes on from its last line.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np

from acquisition.masks import UNKNOWN
from training.datasets.labelled import check_masks
from training.experiments.learners import train_config
from training.experiments.loop_config import BadLoop, LoopConfig
from training.experiments.loop_data import Data, find_data, open_folder
from training.experiments.probe import keep_features
from training.experiments.run_folder import claim, locked
from training.experiments.runs import lines_file, read_lines
from training.experiments.simulation import Simulation
from training.experiments.strategy import FULL
from training.files import write_atomically
from training.process_pool import process_pool


def run(
    config: LoopConfig, folder: Path, workers: int, progress: Callable[[str, int, int], None]
) -> None:
    """Run every path that is not done, several side by side; each writes lines of its own.

    Args:
        config: what to run.
        folder: where the results are kept; made if need be.
        workers: paths side by side, each with one thread.
        progress: called with what is going on, how much of it is done, and of how much.

    Raises:
        BadFolder: see ``check_masks`` and ``find_data``.
        BadLoop: see ``find_data``; no test image shows a class; a seed's first images leave a
            member nothing; or the folder holds results of another loop, strategy or image.
    """
    data = find_data(config)
    # Not in find_data, which each path's process calls: this reads every mask.
    for root in filter(None, (config.data, config.start)):
        check_masks(open_folder(root))
    if config.learner == "network":
        train_config(data, 0)
    _check_test_shows_a_class(data)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        claim(folder, config, data)
        keep_features(
            folder / "features",
            data.keys,
            data.read,
            workers,
            lambda done: progress("features", done, len(data.keys)),
        )
        if config.initial_by == "diverse":
            # A seed that cannot begin is reported now, not when its turn comes after hours.
            for seed in range(config.seeds):
                Simulation(config, folder, FULL, seed, []).initial()
        names = [*config.strategies_by_name(), *([FULL] if config.full else [])]
        paths = [(name, seed) for seed in range(config.seeds) for name in names]
        lines = sum(config.last_round(name) + 1 for name, _ in paths)
        run_side_by_side(
            [partial(follow, config, folder, *path) for path in paths],
            workers,
            lambda: progress(
                "rounds", sum(_count_lines(lines_file(folder, *path)) for path in paths), lines
            ),
        )


def _check_test_shows_a_class(data: Data) -> None:
    if not any(np.isin(data.read_mask(key), (0, UNKNOWN), invert=True).any() for key in data.test):
        raise BadLoop(
            f"none of the {len(data.test)} test images of {data.config.data} shows a class but "
            "background, so there is no quality to measure: hold back others"
        )


def follow(config: LoopConfig, folder: Path, strategy: str, seed: int) -> None:
    """One path, from where it stands to its end."""
    path = lines_file(folder, strategy, seed)
    found = read_lines(path).lines if path.exists() else []
    # Anything after the first line that is not the next round is dropped.
    lines = [line for _, line in takewhile(lambda each: each[1].round == each[0], enumerate(found))]
    last = config.last_round(strategy)
    if len(lines) > last:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line that a kill cut off must not run into the next.
    write_atomically(path, "".join(line.to_text() for line in lines).encode())
    simulation = Simulation(config, folder, strategy, seed, lines)
    for number in range(len(lines), last + 1):
        line = simulation.round(number)
        with path.open("a", encoding="utf-8") as file:
            file.write(line.to_text())


def run_side_by_side(
    tasks: Sequence[Callable[[], None]], workers: int, tick: Callable[[], None]
) -> None:
    """Call all tasks in so many processes, and ``tick`` every second; the first error ends all."""
    others = set(multiprocessing.active_children())
    executor = process_pool(workers)
    try:
        waiting = {executor.submit(task) for task in tasks}
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            tick()
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        # A path goes on from its last whole line, and one of networks may take hours to its end.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    executor.shutdown()


def _count_lines(path: Path) -> int:
    """Lines in a file; none if it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0
