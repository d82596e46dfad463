"""`pool import`: the most worthwhile pictures become tasks, each once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.actions.pool import PoolImport, import_pool, picture_number
from backend.errors import BadRequest, NotEnoughLabels, StudioUnreachable
from backend.workplace import Workplace
from tests.backend.small_studio import CREATED_S, LABEL_CONFIG, SmallStudio, small_studio
from tests.backend.workplaces import open_workplace
from training.batch.scores import PictureScores, halved, pack
from training.datasets.seen_images import RESULTS

ARM = "mutual_information/object_max"
PICTURES = 300


def quiet(_done: int, _of: int, _what: str = "") -> None:
    pass


def scores_of(number: int) -> PictureScores:
    generator = np.random.default_rng(number)
    return PictureScores(
        f"s3://pool/{number:03}.png",
        {"slide": f"s{number % 3}"},
        {ARM: number / PICTURES},
        halved(generator.normal(size=8).astype(np.float32)),
        generator.random(3, np.float32),
    )


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    folder = tmp_path / "scores/shard-00000-of-00001"
    folder.mkdir(parents=True)
    (folder / RESULTS).write_text(json.dumps({"version": "1, SHA-256 aa"}))
    lines = [scores_of(number).line() for number in range(PICTURES)]
    for start in range(0, PICTURES, 100):
        (folder / f"block-{start:015}.jsonl.gz").write_bytes(pack(lines[start : start + 100]))
    return folder.parent


@pytest.fixture
def studio() -> Iterator[SmallStudio]:
    with small_studio(tasks=3) as studio:
        yield studio


@pytest.fixture
def work(studio: SmallStudio, tmp_path: Path) -> Iterator[Workplace]:
    (tmp_path / "data").mkdir()
    with open_workplace(tmp_path / "data", label_studio_url=studio.url) as work:
        row = work.ledger.projects.ensure(
            work.server,
            1,
            CREATED_S,
            title="t",
            label_config=LABEL_CONFIG,
            extra_params={"mode": f"fixed:{ARM}"},
        )
        work.ledger.projects.update(row.id, connected=True)
        yield work


def promote(work: Workplace, number: int = 1) -> None:
    [row] = work.ledger.projects.all()
    adopted = work.ledger.rounds.adopt(row.id, "test")
    work.ledger.versions.record(
        *(row.id, number, adopted.id),
        state="promoted",
        reason="test",
        members=1,
        classes=("background", "dark", "bright"),
        metrics={},
    )


def run(work: Workplace, scores: Path, top: int, **more: Any) -> PoolImport:
    return import_pool(work, 1, scores, top, quiet, **more)


def addresses(studio: SmallStudio) -> list[str]:
    return [str(data["image"]) for data in studio.imported.values()]


def test_the_most_uncertain_become_tasks_and_none_of_them_twice(
    work: Workplace, studio: SmallStudio, scores: Path
) -> None:
    promote(work)
    first = run(work, scores, 20)
    assert (first.scored, first.known, first.imported, first.measure) == (PICTURES, 0, 20, ARM)
    assert addresses(studio) == [each["image"] for each in first.chosen]
    assert next(iter(studio.imported.values()))["slide"] in {"s0", "s1", "s2"}
    whys = [each["why"] for each in first.chosen]
    assert whys.count("chance") == 4
    # Of what chance did not draw, all are among the 100 most uncertain.
    assert min(e["score"] for e in first.chosen if e["why"] != "chance") >= 2 / 3
    second = run(work, scores, 20)
    assert (second.known, second.imported) == (20, 20)
    assert len(set(addresses(studio))) == 40
    last = run(work, scores, PICTURES)
    assert last.imported == PICTURES - 40
    assert run(work, scores, 5).chosen == []
    assert len(set(addresses(studio))) == len(studio.imported) == PICTURES


def test_a_dry_run_changes_nothing_and_says_what_would_be(
    work: Workplace, studio: SmallStudio, scores: Path
) -> None:
    promote(work)
    dry = run(work, scores, 10, dry_run=True)
    assert (dry.imported, dry.dry_run, studio.imported) == (0, True, {})
    assert run(work, scores, 10).chosen == dry.chosen


@pytest.mark.parametrize("made", [True, False])
def test_an_import_that_broke_off_is_neither_repeated_nor_lost(
    work: Workplace,
    studio: SmallStudio,
    scores: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: bool,
) -> None:
    promote(work)
    import_tasks = type(work.studio).import_tasks

    def breaks_off(*arguments: Any) -> list[int]:
        if made:
            import_tasks(*arguments)
        raise StudioUnreachable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(work.studio), "import_tasks", breaks_off)
        with pytest.raises(StudioUnreachable):
            run(work, scores, 10)
    again = run(work, scores, PICTURES)
    assert (again.known, again.imported) == ((10, 290) if made else (0, 300))
    assert len(set(addresses(studio))) == len(studio.imported) == PICTURES


def test_what_cannot_be_done_is_said(work: Workplace, studio: SmallStudio, scores: Path) -> None:
    with pytest.raises(NotEnoughLabels):
        run(work, scores, 1)
    promote(work)
    folder = scores / "shard-00001-of-00002"
    folder.mkdir()
    (folder / RESULTS).write_text(json.dumps({"version": "2, SHA-256 bb"}))
    block = folder / "block-000000000000000.jsonl.gz"
    local = PictureScores("/scans/1.png", {}, {ARM: 2.0}, None, np.zeros(3, np.float32))
    block.write_bytes(pack([local.line()]))
    with pytest.raises(BadRequest, match="several versions"):
        run(work, scores, 1)
    (folder / RESULTS).write_text(json.dumps({"version": "1, SHA-256 aa"}))
    with pytest.raises(BadRequest, match=r"/scans/1\.png.*no address"):
        run(work, scores, PICTURES + 1)
    assert studio.imported == {}


def test_scores_of_an_earlier_version_are_told(work: Workplace, scores: Path) -> None:
    promote(work)
    promote(work, 2)
    assert run(work, scores, 1).notes == ["The scores are of version 1, and version 2 ranks now."]


def test_an_address_has_one_number() -> None:
    assert picture_number("s3://pool/1.png") == picture_number("s3://pool/1.png") < 2**63


def test_a_picture_that_the_manifest_names_twice_becomes_one_task(
    work: Workplace, studio: SmallStudio, scores: Path
) -> None:
    promote(work)
    first = next(scores.rglob("block-*"))
    first.with_name("block-000000000000999.jsonl.gz").write_bytes(first.read_bytes())
    assert run(work, scores, PICTURES + 100).imported == PICTURES
    assert len(set(addresses(studio))) == len(studio.imported) == PICTURES


def test_scores_of_other_classes_are_refused(work: Workplace, scores: Path) -> None:
    promote(work)
    odd = PictureScores("s3://pool/odd.png", {}, {ARM: 0.5}, None, np.zeros(2, np.float32))
    next(scores.rglob("block-*")).write_bytes(pack([odd.line()]))
    with pytest.raises(BadRequest, match=r"of 2 classes.*version 1, which ranks now, has 3"):
        run(work, scores, 1)


def test_pictures_that_another_machine_has_just_taken_are_not_imported_again(
    work: Workplace, studio: SmallStudio, scores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(work)
    run(work, scores, 10)
    monkeypatch.setattr(work.ledger.pool, "all", lambda _project: set())  # as it was before
    with pytest.raises(BadRequest, match="on another machine"):
        run(work, scores, PICTURES)
    assert len(studio.imported) == 10
