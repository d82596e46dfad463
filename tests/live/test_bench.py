"""The rows of `make bench` that need servers run, at tiny sizes and on the tests' Label Studio."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.bench import harness, rows_live
from tests.live.harness.servers import LabelStudio

pytestmark = pytest.mark.live


@pytest.mark.timeout(900)  # a real worker does two rounds of it, beside whatever else runs here
def test_each_row_with_servers_runs(
    label_studio: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_live, "own_label_studio", lambda: nullcontext(label_studio))
    harness.load_rows()
    rows = [one for one in harness.choose([]) if one.live]
    harness.run(rows, tmp_path / "bench.json", small=True)
    entries = json.loads((tmp_path / "bench.json").read_text())
    assert [one["name"] for one in entries] == [one.name for one in rows]
    assert [one for one in entries if "error" in one] == []
