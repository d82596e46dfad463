"""Connecting where no Label Studio is needed: what it warns of, and what a refusal leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.actions.connect import _many_regions, connect_project
from backend.errors import StudioRefused
from backend.label_studio.label_config import parse_label_config
from backend.options import ProjectOptions
from backend.workplace import Workplace
from tests.backend.label_studio.test_connection import PROJECT, MemoryStudio
from tests.backend.workplaces import brush_config, open_workplace

CREATED = 1_700_000_000


def test_a_mask_for_each_particle_is_warned_of() -> None:
    config = brush_config("Cell")
    brushes, polygons = (
        parse_label_config(xml) for xml in (config, config.replace("BrushLabels", "PolygonLabels"))
    )
    each, whole = ProjectOptions(regions="particle"), ProjectOptions()
    [said] = _many_regions(brushes, each)
    assert "editor freezes on a task of more than some 100" in said
    assert _many_regions(polygons, each) == _many_regions(brushes, whole) == []


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    monkeypatch.setitem(PROJECT, "label_config", brush_config("Cell"))
    with open_workplace(tmp_path) as work:
        work.studio = MemoryStudio()  # type: ignore[misc]  # the cached client
        yield work


def refused(*_: Any, **__: Any) -> Any:
    raise StudioRefused("refused by the test", 500)


@pytest.mark.parametrize("known", [False, True])
def test_a_connect_that_is_refused_at_its_end_leaves_nothing_behind(
    work: Workplace, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:  # it was connected once
        row = work.ledger.projects.ensure(work.server, 3, CREATED)
        work.ledger.projects.update(row.id, connected=False)
    before = dict(work.studio.settings)  # type: ignore[attr-defined]
    monkeypatch.setattr(MemoryStudio, "stamps", refused)
    with pytest.raises(StudioRefused, match="refused by the test"):
        connect_project(work, 3)
    assert work.studio.rows == {"ml": {}, "hooks": {}, "views": {}}  # type: ignore[attr-defined]
    assert work.studio.settings == before  # type: ignore[attr-defined]
    rows = work.ledger.projects.all()
    assert [(row.connected, row.connection) for row in rows] == [(False, None)] * known


def test_a_project_that_is_connected_stays_so_where_connecting_again_is_refused(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryStudio, "stamps", lambda *_: {})
    monkeypatch.setattr(MemoryStudio, "tasks", refused)
    [said] = connect_project(work, 3).warnings
    assert said == "No image was tried: refused by the test"
    monkeypatch.setattr(MemoryStudio, "stamps", refused)
    with pytest.raises(StudioRefused):
        connect_project(work, 3)
    [row] = work.ledger.projects.all()
    assert row.connected
    assert len(work.studio.rows["ml"]) == 1  # type: ignore[attr-defined]
