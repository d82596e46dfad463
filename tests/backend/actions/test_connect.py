"""What `connect` warns of, without a Label Studio; tests/live has the rest."""

from __future__ import annotations

from backend.actions.connect import _many_regions
from backend.label_studio.label_config import parse_label_config
from backend.options import ProjectOptions
from tests.backend.workplaces import brush_config


def test_a_mask_for_each_particle_is_warned_of() -> None:
    config = brush_config("Cell")
    brushes, polygons = (
        parse_label_config(xml) for xml in (config, config.replace("BrushLabels", "PolygonLabels"))
    )
    each, whole = ProjectOptions(regions="particle"), ProjectOptions()
    [said] = _many_regions(brushes, each)
    assert "editor freezes on a task of more than some 100" in said
    assert _many_regions(polygons, each) == _many_regions(brushes, whole) == []
