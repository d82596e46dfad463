"""What the tests of the simulated loop share."""

import json
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import yaml
from click.testing import CliRunner

from training.__main__ import cli
from training.experiments.runs import lines_file
from training.experiments.strategy import FULL

SMALL = {
    "test": 3,
    "strategies": ["random", "committee"],
    "seeds": 1,
    "initial": 2,
    "query": 2,
    "rounds": 2,
    "members": 2,
    "candidates": 6,
}


def write_config(folder, **changes):
    path = folder / "loop.yaml"
    path.write_text(yaml.safe_dump({"data": "discs", **SMALL, **changes}))
    return path


def lines_in(run):
    """The lines of all paths, as JSON."""
    settings = json.loads((run / "run.json").read_text())
    return [
        json.loads(line)
        for seed in settings["seeds"]
        for name in (*settings["strategies"], FULL)
        if lines_file(run, name, seed).exists()
        for line in lines_file(run, name, seed).read_text().splitlines()
    ]


def loop(config, output, *options):
    return CliRunner().invoke(
        cli, ["loop", "--config", str(config), "--output", str(output), "--workers", "1", *options]
    )


def without_time(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


class OneThread(ThreadPoolExecutor):
    """In place of a pool of processes: what goes there and back must bear to be pickled, too."""

    def submit(self, function, /, *arguments, **named):
        sent = ForkingPickler.dumps((function, arguments, named))

        def call():
            function, arguments, named = ForkingPickler.loads(sent)
            return ForkingPickler.loads(ForkingPickler.dumps(function(*arguments, **named)))

        return super().submit(call)


def use_this_process(patch):
    for module in ("loop", "probe", "ablation"):
        patch.setattr(f"training.experiments.{module}.process_pool", lambda workers: OneThread(1))
