"""A project starts from another's version: what is taken over, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.actions.connect import disconnect_project
from backend.actions.start_from import Start, adopt, find_start, map_classes
from backend.errors import BadRequest
from backend.insight.status import status
from backend.insight.status_text import describe_status
from backend.insight.versions import versions_of
from backend.insight.versions_text import describe_versions
from backend.label_studio.label_config import parse_label_config
from backend.ledger import Project
from backend.options import ProjectOptions
from backend.rounds.elsewhere import learnt_elsewhere, start_version
from backend.rounds.retention import prune
from backend.workplace import Workplace
from tests.backend.workplaces import brush_config, open_workplace
from tests.training.discs import disc_examples
from training.committee.checksums import DamagedVersion, UnknownVersion
from training.config import TrainConfig
from training.examples import image_digest
from training.networks.build import ForeignNetwork, skeleton

CONFIG = TrainConfig(("background", "RBC", "cast"), members=2, network="unet", max_side_px=1024)
METRICS = {"temperature": 2.0, "class_bias": {"background": 0.5, "RBC": 0.0, "cast": 0.1}}
LABELS = ("red cell", "crystal")
ALIASES = {"RBC": "red cell"}


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workplace]:
    with open_workplace(tmp_path, network="unet", engine="torch") as work:
        yield work


def project(work: Workplace, number: int) -> Project:
    return work.ledger.projects.ensure(work.server, number, 1, title=f"Lab {number}")


def made(work: Workplace, row: Project, config: TrainConfig = CONFIG, **manifest: Any) -> Path:
    """A promoted version of a project; nobody has trained its members."""
    round_ = work.ledger.rounds.adopt(row.id, "for the test")
    assert round_.version is not None
    work.ledger.versions.record(
        row.id, round_.version, round_.id, state="promoted", reason="", members=config.members,
        classes=config.classes, metrics={},
    )  # fmt: skip
    try:
        weights = [skeleton(config).state_dict() for _ in range(config.members)]
    except Exception:  # a network that is not installed has no weights
        weights = [skeleton(CONFIG).state_dict() for _ in range(config.members)]
    bias = {name: METRICS["class_bias"].get(name, 0.0) for name in config.classes}  # type: ignore[attr-defined]
    return work.registry.save_version(
        row.slug, round_.version, weights, config, {"entries": [], **manifest},
        {**METRICS, "class_bias": bias, "dice": {"RBC": 0.9}},
    )  # fmt: skip


def found(
    work: Workplace,
    asked: str,
    known: Project | None = None,
    labels: Sequence[str] = LABELS,
    **options: Any,
) -> Start:
    config = parse_label_config(brush_config(*labels))
    return find_start(work, known, asked, config, ProjectOptions(**{"aliases": ALIASES, **options}))


def test_names_are_labels_or_mapped_and_never_twice() -> None:
    classes = ("background", "RBC", "red cell", "cast", "old")
    aliases = {"RBC": "red cell", "cast": "background", "old": "crystal"}
    assert map_classes(classes, LABELS, aliases) == (
        "background", "RBC", "red cell", "cast", "crystal",
    )  # fmt: skip
    assert map_classes(("background", "a", "b"), ["x"], {"a": "x", "b": "x"})[1:] == ("x", "b")


def test_a_version_is_copied_and_ranks_under_the_project_s_names(work: Workplace) -> None:
    examples = disc_examples(3)
    images = [image_digest(each.image) for each in examples[:2]]
    made(work, project(work, 3), images=images[:1], ancestors=images[1:])
    row = project(work, 4)
    start = found(work, "3", row)
    assert start.warnings == []
    for _ in range(2):  # safe to repeat
        adopt(work, row, start)
    [version] = work.ledger.versions.all(row.id)
    assert (version.number, version.state, version.members) == (1, "promoted", 2)
    assert version.classes == ["background", "red cell", "cast"]
    committee = work.registry.load(row.slug, 1)
    assert committee.config.classes == ("background", "red cell", "cast")
    assert committee.calibration.bias == (0.5, 0.0, 0.1)
    active = work.ledger.rounds.active(row.id)
    assert active is not None
    assert active.kind == "rank"
    assert learnt_elsewhere(work.ledger, row.id, examples) == {"disc-0", "disc-1"}
    assert learnt_elsewhere(work.ledger, project(work, 5).id, examples) == frozenset()
    # Said where people look, and nothing that was measured elsewhere.
    shown = describe_status(status(work.ledger, 4))
    assert "from elsewhere, version 1 of project 3, 'Lab 3'; not measured here yet" in shown
    assert "Dice" not in shown
    assert "from elsewhere" in describe_versions(versions_of(work, 4))
    # The other project may lose it, and be purged.
    work.registry.delete_version(project(work, 3).slug, 1)
    work.ledger.projects.forget(project(work, 3).id)
    prune(work, row)
    assert work.registry.versions(row.slug) == [1]
    disconnect_project(work, 4)
    assert start_version(work.ledger, row.id) is not None
    # The copy itself tells what its ancestors learnt from.
    kept = json.loads((work.registry.version_path(row.slug, 1) / "manifest.json").read_bytes())
    assert kept["ancestors"] == sorted(images)


def test_another_start_takes_the_place_of_the_first_while_nothing_was_trained(
    work: Workplace,
) -> None:
    made(work, project(work, 3))
    folder = made(work, project(work, 3))
    row = project(work, 4)
    adopt(work, row, found(work, "3:1", row))
    adopt(work, row, found(work, str(folder), row))
    states = [(v.number, v.state) for v in work.ledger.versions.all(row.id)]
    assert states == [(2, "promoted"), (1, "withdrawn")]
    # Of a folder: the version's own name is all that is known of where it is from.
    assert "the version in '2'" in describe_status(status(work.ledger, 4))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 1}, "takes images of 1 channels, and those of Label Studio have 3"),
        ({"classes": ("background", "nucleus")}, "there is no class in common. Map its names"),
    ],
)
def test_a_version_that_does_not_fit_is_refused(
    work: Workplace, changes: dict[str, Any], said: str
) -> None:
    made(work, project(work, 3), replace(CONFIG, **changes))
    with pytest.raises(BadRequest, match=said):
        found(work, "3")


def test_what_is_no_version_is_refused(work: Workplace, tmp_path: Path) -> None:
    source, row = project(work, 3), project(work, 4)
    with pytest.raises(BadRequest, match="Project 3 has no version yet"):
        found(work, "3")
    with pytest.raises(BadRequest, match="Project 4 cannot start from itself"):
        found(work, "4", row)
    with pytest.raises(BadRequest, match="never connected, or was purged"):
        found(work, "9")
    with pytest.raises(BadRequest, match="takes PROJECT, PROJECT:VERSION or a version's folder"):
        found(work, "nowhere")
    with pytest.raises(UnknownVersion, match="there is no version in"):
        found(work, str(tmp_path))
    folder = made(work, source)
    with pytest.raises(UnknownVersion):
        found(work, "3:7")
    with pytest.raises(BadRequest, match="is a version of project 3 itself"):
        found(work, str(folder), source)
    with pytest.raises(BadRequest, match="only a new project may start"):
        found(work, "3", _with_own_version(work, row))
    for manifest in ({"images": [1, "a"]}, {"entries": ["x"]}):
        made(work, source, **manifest)
        with pytest.raises(DamagedVersion, match="is not what was saved"):
            found(work, "3")
    folder = made(work, source)
    (folder / "member-01.safetensors").write_bytes(b"torn")
    with pytest.raises(DamagedVersion, match="should have the SHA-256"):
        found(work, "3")


def _with_own_version(work: Workplace, row: Project) -> Project:
    made(work, row)
    return row


def test_a_laboratory_s_own_network_must_be_the_one_set_here(work: Workplace) -> None:
    made(work, project(work, 3), replace(CONFIG, network="lab.nets:big"))
    with pytest.raises(ForeignNetwork, match="set NETWORK=lab"):
        found(work, "3")


def test_what_will_not_be_as_good_is_said(work: Workplace) -> None:
    source = project(work, 3)
    [known, *_] = disc_examples(1)
    work.registry.put_example(source.slug, "kept", known)
    entries = [{"digest": "kept", "audit": False}, {"digest": "gone", "audit": False}]
    made(work, source, entries=[*entries, {"digest": "x", "audit": True}])
    start = found(work, "3", max_side_px=512, network="shared")
    assert [said.partition(", ")[0] for said in start.warnings] == ["Version 1 of project 3"] * 3
    network, side, unnamed = start.warnings
    assert "no training begins with it: its network is 'unet', this project's 'shared'" in network
    assert "sees images at 1024 px, this project at max_side_px 512" in side
    assert "does not name all images that it learnt from" in unnamed
    # A version of an earlier release: its examples say what they can.
    assert start.started_from["images"] == [image_digest(known.image)]


def test_the_same_version_by_other_names_takes_the_place_of_the_first(work: Workplace) -> None:
    config = TrainConfig(("background", "red cell", "KRI"), members=2, network="unet")
    made(work, project(work, 3), config)
    row = project(work, 4)
    adopt(work, row, found(work, "3", row))
    adopt(work, row, found(work, "3", row, aliases={"KRI": "crystal"}))
    version = start_version(work.ledger, row.id)
    assert version is not None
    assert version.classes == ["background", "red cell", "crystal"]
    assert [each.number for each in work.ledger.versions.all(row.id)] == [2, 1]
