"""A finished run of the simulated loop, made once."""

import json
import shutil

import pytest
from click.testing import CliRunner

from tests.training.discs import write_discs
from tests.training.experiments.small_loop import use_this_process, write_config
from training.__main__ import cli


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """A finished run of two strategies on drawn discs, and its configuration."""
    folder = tmp_path_factory.mktemp("loop")
    write_discs(folder / "discs", 14)
    config = write_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        use_this_process(patch)
        result = CliRunner().invoke(cli, ["loop", "--config", str(config), "--workers", "1"])
    assert result.exit_code == 0, result.output
    return folder / "loop", config


@pytest.fixture
def copied(done, tmp_path):
    """The finished run and its configuration, to spoil."""
    folder = tmp_path / "copied"
    shutil.copytree(done[0].parent, folder)
    kept = folder / "loop" / "config.json"
    settings = json.loads(kept.read_text()) | {"data": str(folder / "discs")}
    kept.write_text(json.dumps(settings))
    return folder / "loop", folder / "loop.yaml"


@pytest.fixture
def in_this_process(monkeypatch):
    """Paths and cells run one by one in a thread: a process of its own takes seconds to begin."""
    use_this_process(monkeypatch)
