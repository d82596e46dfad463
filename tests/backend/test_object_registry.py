"""The backend with its registry in a real S3 server: what goes on while that is away, and moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner

from backend.actions.backup import back_up
from backend.actions.purge import purge_project
from backend.actions.restore import restore
from backend.cli import cli
from backend.fallback import load_whole
from backend.insight.findings.finding import Installation
from backend.insight.findings.storage import check_registry
from backend.insight.version_list import sheet_of, version_rows
from backend.insight.versions import versions_of
from backend.jobs.parts import do_part
from backend.ledger import Outcome, Project, Round
from backend.ledger.shapes import NoPayload
from backend.rounds.stages import RUN
from backend.settings import Settings, load_settings
from backend.workplace import Workplace
from tests.backend.actions.test_backup import NETWORK, begin_round, do_next
from tests.backend.small_studio import SmallStudio
from tests.backend.workplaces import GIVEN, make_settings
from tests.command_page import json_keys
from tests.training.discs import CLASSES, disc_examples
from training.committee.store.store import StoreUnavailable
from training.config import TrainConfig
from training.images import encode_png
from training.networks.build import build_network

if TYPE_CHECKING:
    from tests.s3 import Door, S3Server

CONFIG = TrainConfig(CLASSES, members=2, network="unet", crop_px=64)


@pytest.fixture
def url(s3: S3Server, door: Door) -> str:
    return f"s3://{s3.new_bucket()}/lab"


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "data", registry_url=url, engine="torch")


@pytest.fixture
def project(work: Workplace) -> Project:
    """With the promoted versions 1 and 2, written by another host."""
    row = work.ledger.projects.ensure(work.server, 7, 1795468845, title="Urine")
    round_ = work.ledger.rounds.start(row.id, "train", "a test's", "collect", {})
    assert round_ is not None
    registry = work.registry
    for number in (1, 2):
        torch.manual_seed(number)
        weights = [build_network(CONFIG).state_dict() for _ in range(2)]
        registry.save_version(
            row.slug, number, weights, CONFIG, {}, {"temperature": 1.0}, sheet=b"\x89PNG"
        )
        work.ledger.versions.record(
            row.id,
            number,
            round_.id,
            state="promoted",
            reason="a test's",
            members=2,
            classes=CLASSES,
            metrics={},
        )
        registry.store.forget_copy(row.slug, f"versions/{number}")
    return row


def test_versions_are_listed_and_shown_without_bringing_them_here(
    work: Workplace, project: Project, url: str
) -> None:
    rows = version_rows(work, project)
    assert [(row.number, row.files, row.sheet) for row in rows] == [
        (2, True, True),
        (1, True, True),
    ]
    assert sheet_of(work, project, 2) == b"\x89PNG"
    newest, _ = versions_of(work)
    assert newest.folder == f"{url}/{project.slug}/versions/2"
    assert "member-00.safetensors" in newest.files
    assert not list((work.settings.data_dir / "cache").rglob("member-*"))


def test_what_is_on_this_host_predicts_while_the_store_is_away(
    work: Workplace, project: Project, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.s3 import KEY_ID, SECRET

    assert load_whole(work, project, 1).version == 1
    door.shut()
    assert load_whole(work, project, 1).version == 1
    assert load_whole(work, project, 2).version == 1  # 2 is not here
    work.store.forget_copy(project.slug, "versions/1")
    with pytest.raises(StoreUnavailable, match="does not answer"):
        load_whole(work, project, 2)
    assert "version 1 predicts instead of 2" in caplog.text
    assert KEY_ID not in caplog.text
    assert SECRET not in caplog.text + repr(work.settings)


def test_a_part_waits_for_the_store_and_its_round_is_not_lost(
    work: Workplace, project: Project, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(
        work: Workplace, round_: Round, _payload: NoPayload, _tick: Callable[[float], None]
    ) -> Outcome:
        work.registry.put_round(project.slug, round_.id, "member", b"weights")
        return Outcome()

    monkeypatch.setitem(RUN, "collect", collect)  # type: ignore[arg-type]
    round_ = work.ledger.rounds.active(project.id)
    assert round_ is not None
    [part] = work.ledger.parts.of_round(round_.id)
    for shut, state in ((True, "waiting"), (False, "done")):
        (door.shut if shut else door.open)()
        monkeypatch.setattr(work.store, "_away", (0.0, ""))
        monkeypatch.setattr("backend.jobs.parts.FIRST_DELAY_S", 0.0)
        taken = work.ledger.parts.take(part.id, "lab-1-0")
        assert taken is not None
        do_part(work, taken)
        [now] = work.ledger.parts.of_round(round_.id, "collect")
        assert now.state == state
        error = work.ledger.projects.get(project.id).last_error or ""
        assert "does not answer" in error
    assert work.registry.get_round(project.slug, round_.id, "member") == b"weights"


def test_the_doctor_tries_the_store(work: Workplace, door: Door) -> None:
    [found] = check_registry(Installation(work))
    assert (found.code, found.severity) == ("registry", "ok")
    door.shut()
    [found] = check_registry(Installation(work))
    assert (found.code, found.severity) == ("registry", "error")
    assert "does not answer" in found.what


def test_a_purge_leaves_nothing_in_the_store_or_on_this_host(
    work: Workplace, project: Project
) -> None:
    work.registry.load(project.slug, 1)
    purge_project(work, project)
    assert work.store.projects() == []
    assert not list((work.settings.data_dir / "cache").rglob("member-*"))


@pytest.fixture
def folder_settings(tmp_path: Path) -> Settings:
    """An installation with a version in a folder."""
    from training.committee.version import write_version

    made = make_settings(tmp_path / "old")
    assert made.registry_path is not None
    weights = [build_network(CONFIG).state_dict() for _ in range(2)]
    metrics = {"temperature": 1.0}
    write_version(made.registry_path / "p1/versions/1", 1, weights, CONFIG, {}, metrics)
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "command"))

    def run(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(cli, list(words))
        assert done.exit_code == status, done.output
        return done.output if status else done.stdout

    return run


def test_a_registry_moves_by_command(
    run: Callable[..., str], folder_settings: Settings, url: str, tmp_path: Path
) -> None:
    source = folder_settings.registry_url
    said = json.loads(run("registry", "copy", source, url, "--json"))
    assert said.keys() == json_keys()["backend registry copy"]
    assert (said["versions"], said["copied"]) == (1, 1)
    assert "1 versions and 0 other files are the same in both, 0 of them new" in run(
        "registry", "copy", source, url
    )
    back = tmp_path / "back"
    run("registry", "copy", url, f"file://{back}")
    assert sorted(path.name for path in back.rglob("*") if path.is_file()) == sorted(
        path.name for path in Path(source).rglob("*") if path.is_file()
    )
    (back / "p1/versions/1/config.json").write_text("{}")
    assert "Version 1 of p1 is not copied" in run(
        "registry", "copy", str(back), str(tmp_path / "new"), status=1
    )
    assert "must be a folder or s3://bucket/prefix" in run(
        "registry", "copy", source, "s3://a:sesame@b", status=1
    )
    assert "the same registry" in run("registry", "copy", url, url, status=1)


def test_a_backup_names_a_registry_that_it_leaves_to_the_bucket(
    settings: Settings, tmp_path: Path, url: str
) -> None:
    made = back_up(settings, tmp_path / "backups")
    assert made.manifest.left_out == [url]
    there = load_settings(
        _env_file=None, **{**GIVEN, "data_dir": tmp_path / "new", "registry_url": url}
    )
    restore(there, tmp_path / "backups")
    assert (tmp_path / "new/ledger.sqlite3").exists()


def test_a_backup_of_a_folder_is_restored_into_an_object_store(
    folder_settings: Settings, tmp_path: Path, url: str
) -> None:
    back_up(folder_settings, tmp_path / "backups")
    there = load_settings(
        _env_file=None, **{**GIVEN, "data_dir": tmp_path / "new", "registry_url": url}
    )
    restore(there, tmp_path / "backups")
    store = there.store()
    assert store.versions("p1") == [1]
    assert "member-01.safetensors" in store.contents("p1")[1]
    store.close()
    left = {path.name for path in (tmp_path / "new").iterdir()}
    assert not left & {"registry", ".restoring"}


def test_a_round_whose_parts_run_on_two_hosts_makes_what_one_host_makes(
    url: str, tmp_path: Path
) -> None:
    image = encode_png(disc_examples(1)[0].image)
    with closing(SmallStudio(tasks=12, image=image)) as studio, ExitStack() as opened:
        given = {**GIVEN, "label_studio_url": studio.url, "network": NETWORK, "engine": "torch"}
        shared = {**given, "ledger_url": f"sqlite:///{tmp_path}/ledger", "registry_url": url}

        def host(name: str, settings: dict[str, Any]) -> Workplace:
            return opened.enter_context(
                closing(Workplace(make_settings(tmp_path / name, **settings)))
            )

        first, second, alone = host("a", shared), host("b", shared), host("c", given)
        round_ = begin_round(first)
        for work in (first, second) * 3:  # two members, assemble, choose, score, publish
            do_next(work, round_)
        ended = first.ledger.rounds.get(round_.id)
        assert (ended.state, ended.error) == ("succeeded", None)
        serving = first.ledger.publications.serving(round_.project_id)
        assert serving is not None
        assert studio.predictions == {serving.name: 12}
        slug = first.ledger.projects.get(round_.project_id).slug
        assert not first.store.has(slug, f"rounds/{round_.id}/member-00.safetensors")
        round_ = begin_round(alone)
        for _ in ("two members", "and", "assemble"):
            do_next(alone, round_)
        members = [work.registry.member_files(slug, serving.version) for work in (second, alone)]
        assert members[0] == members[1]
