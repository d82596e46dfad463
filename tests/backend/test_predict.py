"""What `status` shows of tasks that /predict could not pre-annotate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.data_dir import announced_names, remember_name
from backend.insight.status import status
from backend.insight.status_text import describe_status
from backend.label_studio.label_config import parse_label_config
from backend.options import ProjectOptions
from backend.predict import _tell, pre_annotate
from backend.rounds.schedule import _standing_error
from backend.workplace import Workplace
from tests.training.committee.untrained import SMALL, UNTRAINED, random_image
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.networks.build import build_network


def test_status_shows_tasks_without_prediction_until_one_succeeds(work: Workplace) -> None:
    projects = work.ledger.projects
    row = projects.ensure(work.server, 7, 1795468845, title="Urine")
    _tell(work, row, ["no prediction for task 3: it is no image.", "and of another"])
    said = "/predict: no prediction for task 3: it is no image. (and 1 more)"
    assert f"last error   {said}" in describe_status(status(work.ledger))
    assert _standing_error(work, row.id) == said  # the next check keeps it
    _tell(work, projects.get(row.id), [])
    assert projects.get(row.id).last_error is None


def test_what_a_round_said_is_left_alone(work: Workplace) -> None:
    row = work.ledger.projects.ensure(work.server, 7, 1795468845)
    work.ledger.projects.update(row.id, last_error="fit: no memory")
    _tell(work, work.ledger.projects.get(row.id), ["no prediction for task 3: it is no image."])
    assert work.ledger.projects.get(row.id).last_error == "fit: no memory"


def test_names_that_label_studio_announced_are_kept(work: Workplace) -> None:
    folder = work.settings.data_dir
    assert announced_names(folder, work.server) == []
    for name in ("https://a.example", "https://b.example/ls", "https://a.example"):
        remember_name(folder, work.server, name)
    assert announced_names(folder, work.server) == ["https://b.example/ls", "https://a.example"]
    assert announced_names(folder, "http://another.test") == []


@pytest.mark.parametrize(("asked", "regions"), [(None, 2), (["b"], 2), (["a"], 3)])
def test_a_label_of_split_touching_has_a_region_for_each_particle(
    asked: list[str] | None, regions: int
) -> None:
    config = replace(UNTRAINED, network=SMALL, members=1)
    ensemble = Ensemble([build_network(config).state_dict()], config, device=torch.device("cpu"))
    y, x = np.mgrid[:60, :90]
    near = np.minimum((x - 25) ** 2, (x - 53) ** 2) + (y - 25) ** 2
    probs = np.zeros((4, 60, 90), np.float32)
    probs[1], probs[2] = near < 250, y > 50
    probs[0] = 1 - probs[1] - probs[2]
    committee = Committee(ensemble, particle_px={"a": 30.0, "b": 9.0})
    prediction = replace(committee.predict(random_image(60, 90)), probs=probs)
    labels = "".join(f'<Label value="{name}"/>' for name in "abc")
    drawn = pre_annotate(
        committee,
        prediction,
        parse_label_config(
            '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
            f"{labels}</BrushLabels></View>"
        ),
        ProjectOptions(regions="particle", split_touching=asked),
    )
    assert len(drawn) == regions
