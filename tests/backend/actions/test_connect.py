"""Connecting where no Label Studio is needed: what it warns of, and what a refusal leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.actions.connect import _many_regions, connect_project, too_large_for
from backend.errors import BadRequest, StudioRefused
from backend.label_studio.connection import Connection
from backend.label_studio.label_config import build_label_config, parse_label_config
from backend.label_studio.reserved_controls import has_layer_control
from backend.options import ProjectOptions
from backend.workplace import Workplace
from tests.backend.label_studio.test_connection import PROJECT, MemoryStudio
from tests.backend.workplaces import brush_config, make_settings, open_workplace
from training.colours import class_colour
from training.committee.memory import machine_memory, prediction_bytes
from training.committee.version import write_version
from training.config import TrainConfig
from training.networks.build import skeleton

CREATED = 1_700_000_000
GB = 10**9


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


def test_a_new_project_starts_from_another_version_or_is_not_connected_at_all(
    work: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(MemoryStudio, "stamps", lambda *_: {})
    monkeypatch.setattr(MemoryStudio, "tasks", lambda *_: [])
    work.registry.engine = "torch"
    with pytest.raises(BadRequest, match="there is no such folder"):
        connect_project(work, 3, start_from="nowhere")
    assert work.ledger.projects.all() == []
    config = TrainConfig(("background", "Cell"), members=1, network="unet")
    folder = tmp_path / "5"
    weights = [skeleton(config).state_dict()]
    manifest = {"images": []}
    write_version(folder, 5, weights, config, manifest, {"temperature": 1.0})
    for _ in range(2):
        done = connect_project(work, 3, start_from=str(folder))
    assert "no training begins with it: its network is 'unet'" in done.warnings[0]
    [version] = work.ledger.versions.all(done.project.id)
    assert version.reason == "Started from the version in '5'."
    assert connect_project(work, 3).warnings == ()  # which keeps it
    assert work.ledger.versions.promoted(done.project.id) is not None


def test_the_uncertainty_layer_comes_stays_and_goes(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layer() -> tuple[bool, bool]:
        xml = work.studio.project(3).label_config
        connection = work.ledger.projects.of_studio(work.server, 3).connection
        assert connection is not None
        return Connection.from_json(connection).layer, has_layer_control(xml)

    monkeypatch.setattr(MemoryStudio, "stamps", lambda *_: {})
    monkeypatch.setattr(MemoryStudio, "tasks", lambda *_: iter(()))
    connect_project(work, 3)
    assert layer() == (False, False)
    connect_project(work, 3, layer=True)
    assert layer() == (True, True)
    connect_project(work, 3, click=True)
    assert layer() == (True, True)
    connect_project(work, 3, layer=False)
    assert layer() == (False, False)
    connect_project(work, 3, layer=True)
    update = work.studio.update_project

    def refuse(number: int, **fields: Any) -> Any:
        if "label_config" in fields:
            raise StudioRefused("annotations hold it", 400)
        return update(number, **fields)

    monkeypatch.setattr(work.studio, "update_project", refuse)
    [said] = connect_project(work, 3, layer=False).warnings
    assert "stay in the labeling configuration" in said
    assert layer() == (False, True)  # it is there, and pre-annotations get no layer


def warnings_of(tmp_path: Path, labels: int, memory: int, **options: object) -> list[str]:
    named = ((f"label {i}", class_colour(i)) for i in range(1, labels + 1))
    config = parse_label_config(build_label_config(named))
    return too_large_for(
        make_settings(tmp_path), config, ProjectOptions.model_validate(options), memory
    )


def test_more_labels_than_the_memory_bears_are_warned_of(tmp_path: Path) -> None:
    (warning,) = warnings_of(tmp_path, 254, 16 * GB, max_side_px=4096, members=5)
    assert warning.startswith("254 labels at max_side_px 4096 with 5 members take about ")
    assert "this machine has 16.0 GB: rounds will run out of memory." in warning


@pytest.mark.parametrize(("labels", "memory"), [(8, 4 * GB), (64, 4 * GB), (254, 4 * GB)])
def test_the_usual_size_of_images_fits(tmp_path: Path, labels: int, memory: int) -> None:
    assert warnings_of(tmp_path, labels, memory, members=5) == []


def test_many_labels_take_little_but_for_networks_that_cannot_be_divided() -> None:
    assert prediction_bytes("shared", 5, 255, 1024) < 3 * GB
    assert prediction_bytes("lab:net", 5, 255, 1024) > 15 * GB
    assert prediction_bytes("shared", 5, 65, 1024) < 1.6 * GB


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    whole = machine_memory(limit)
    limit.write_text("max\n")
    assert machine_memory(limit) == whole
    limit.write_text("1000000\n")
    assert machine_memory(limit) == 1_000_000
