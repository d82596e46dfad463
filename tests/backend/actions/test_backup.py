"""Backups of an installation at work, and what becomes of one on another machine.

Whoever writes or removes at the same time acts from ``report``, which is called at each step.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backend.actions import backup as action
from backend.actions.backup import BadBackup, CannotBackUp, all_backups, back_up, verify
from backend.actions.restore import CannotRestore, restore
from backend.cli import cli
from backend.data_dir import announced_names, remember, remember_name, remembered
from backend.errors import LedgerUnavailable
from backend.jobs.parts import do_part
from backend.ledger import Ledger, Outcome, Round, upgrade
from backend.settings import Settings, load_settings
from backend.workplace import Workplace
from tests.backend.postgresql import PostgreSQL
from tests.backend.small_studio import CREATED_S, SmallStudio
from tests.backend.workplaces import GIVEN, SERVER, brush_config, make_settings
from tests.command_page import json_keys
from tests.live.harness.servers import ROOT
from tests.training.discs import CLASSES, disc_examples
from training.config import TrainConfig
from training.images import encode_png

NETWORK = "tests.training.laboratory:small"
CONFIG = TrainConfig(CLASSES, members=2, network=NETWORK, crop_px=32, batch=2, steps=4)
LOCAL = "http://127.0.0.1:8080"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation with a version and, in DATA_DIR, a Label Studio of its own."""
    data = tmp_path / "old/data"
    settings = make_settings(data, label_studio_url=LOCAL)
    remember(data, label_studio_url=LOCAL, port=9091)
    version = settings.registry_path / "p1/versions/1"
    version.mkdir(parents=True)
    (version / "member-00.safetensors").write_bytes(b"weights")
    (version / "compiled-f32-2026.2.blob").write_bytes(b"compiled")
    (version.parent / ".2-unfinished").mkdir()
    (version.parent / ".2-unfinished/member-00.safetensors").touch()
    studio = data / "label-studio"
    (studio / "media/upload/1").mkdir(parents=True)
    (studio / "media/upload/1/field.png").write_bytes(b"image")
    (studio / ".env").write_text("SECRET_KEY=s\n")
    with sqlite3.connect(studio / "label_studio.sqlite3") as database:
        database.execute("CREATE TABLE task (id INTEGER)")
        database.execute("INSERT INTO task VALUES (1)")
    database.close()
    return settings


@pytest.fixture
def fresh(tmp_path: Path) -> Settings:
    """Another machine: an empty DATA_DIR elsewhere."""
    return settings_of(tmp_path / "new/place")


def settings_of(data_dir: Path, **given: object) -> Settings:
    return load_settings(_env_file=None, data_dir=data_dir, **given)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestOneThatIsMade:
    def test_holds_all_that_would_be_missed_and_nothing_else(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        links = [settings.data_dir / name for name in ("demo.json", "label-studio/media/mine")]
        for link in links:
            link.symlink_to(tmp_path)
        made = back_up(settings, tmp_path / "backups")
        assert set(files(made.folder)) == {
            "manifest.json",
            "ledger.sqlite3",
            "data/secrets.json",
            "data/local.json",
            "data/label-studio/.env",
            "data/label-studio/label_studio.sqlite3",
            "data/label-studio/media/upload/1/field.png",
            "registry/p1/versions/1/member-00.safetensors",
        }
        assert made.manifest.left_out == list(map(str, links))
        assert verify(made.folder) == made.manifest

    def test_shares_what_has_not_changed_with_the_one_before(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        first = back_up(settings, tmp_path / "backups")
        (settings.registry_path / "p1/versions/1/metrics.json").write_text("{}")
        second = back_up(settings, tmp_path / "backups")
        weights = "registry/p1/versions/1/member-00.safetensors"
        assert (first.folder / weights).samefile(second.folder / weights)
        assert not (first.folder / "ledger.sqlite3").samefile(second.folder / "ledger.sqlite3")
        assert second.copied == 3  # both databases, and the new file
        assert verify(first.folder) == first.manifest
        assert verify(second.folder) == second.manifest

    def test_copies_where_the_disk_knows_no_links(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = back_up(settings, tmp_path / "backups")

        def refuse(*_names: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        second = back_up(settings, tmp_path / "backups")
        assert second.copied == len(second.manifest.files) == len(first.manifest.files)

    def test_sees_no_half_of_a_transaction(self, settings: Settings, tmp_path: Path) -> None:
        work = Workplace(settings)
        row = work.ledger.projects.ensure(LOCAL, 7, CREATED_S, title="before")
        with work.ledger.database.write() as db:
            db.get_one(type(row), row.id).title = "after"
            db.flush()
            made = back_up(settings, tmp_path / "backups")
        work.close()
        with sqlite3.connect(made.folder / "ledger.sqlite3") as copy:
            assert copy.execute("SELECT title FROM projects").fetchall() == [("before",)]
        copy.close()

    def test_is_taken_of_a_ledger_of_the_release_before(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        """Before an upgrade is when a backup is wanted most."""
        with sqlite3.connect(settings.ledger_path) as ledger:
            ledger.execute("UPDATE alembic_version SET version_num = '0001'")
        ledger.close()
        assert "ledger.sqlite3" in back_up(settings, tmp_path / "backups").manifest.files


class TestOneThatIsNotFinished:
    def test_never_looks_whole_after_a_kill(self, settings: Settings, tmp_path: Path) -> None:
        target = tmp_path / "backups"
        first = back_up(settings, target)
        killed = subprocess.run(
            [
                sys.executable,
                "-c",
                "import os, sys; os.sync = lambda: os.kill(os.getpid(), 9)\n"
                "from backend.cli import main; main()",
                *("backup", str(target)),
            ],
            cwd=ROOT,
            env={**os.environ, "DATA_DIR": str(settings.data_dir)},
            check=False,
        )
        assert killed.returncode == -9
        assert len(list(target.iterdir())) == 2
        assert all_backups(target) == [first.folder]
        second = back_up(settings, target)
        assert sorted(target.iterdir()) == [first.folder, second.folder]

    def test_leaves_nothing_on_a_full_disk(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "sync", fail)
        with pytest.raises(CannotBackUp, match=r"disk of .* is full: .* GiB are free") as error:
            back_up(settings, tmp_path / "backups")
        assert "nothing of it is kept" in str(error.value)
        assert list((tmp_path / "backups").iterdir()) == []

    def test_names_the_folder_that_cannot_be_read(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scandir = os.scandir
        folder = settings.data_dir / "label-studio/media"

        def refuse(path: Path) -> object:
            if path == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(action.os, "scandir", refuse)
        with pytest.raises(CannotBackUp, match=f"{folder}: Permission denied"):
            back_up(settings, tmp_path / "backups")

    def test_names_the_database_that_is_damaged(self, settings: Settings, tmp_path: Path) -> None:
        settings.ledger_path.write_bytes(b"no database" * 1000)
        with pytest.raises(CannotBackUp, match=r"ledger\.sqlite3: file is not a database"):
            back_up(settings, tmp_path / "backups")


class TestAFolderThatIsRefused:
    def test_within_what_is_backed_up(self, settings: Settings) -> None:
        for folder in (settings.data_dir / "backups", settings.registry_path):
            with pytest.raises(CannotBackUp, match="name a folder elsewhere"):
                back_up(settings, folder)

    def test_of_another_installation(self, settings: Settings, tmp_path: Path) -> None:
        back_up(make_settings(tmp_path / "other"), tmp_path / "backups")
        with pytest.raises(CannotBackUp, match="of another installation"):
            back_up(settings, tmp_path / "backups")

    def test_that_is_a_backup(self, settings: Settings, tmp_path: Path) -> None:
        made = back_up(settings, tmp_path / "backups")
        with pytest.raises(CannotBackUp, match="is a backup itself"):
            back_up(settings, made.folder)

    def test_of_a_mistyped_data_dir(self, fresh: Settings, tmp_path: Path) -> None:
        with pytest.raises(CannotBackUp, match="is DATA_DIR right"):
            back_up(fresh, tmp_path / "backups")


class TestRestoring:
    def test_gives_everything_back_under_another_path(
        self, settings: Settings, fresh: Settings, tmp_path: Path
    ) -> None:
        made = back_up(settings, tmp_path / "backups")
        restore(fresh, tmp_path / "backups")
        assert files(fresh.data_dir) == {
            name.removeprefix("data/"): data
            for name, data in files(made.folder).items()
            if name != "manifest.json"
        }
        old = os.fsencode(settings.data_dir)
        assert not any(old in data for data in files(fresh.data_dir).values())
        # The new machine's next backup goes on where the old one's ended.
        next_one = back_up(settings_of(fresh.data_dir), tmp_path / "backups")
        assert next_one.copied == 2

    def test_takes_the_newest_or_the_one_that_is_named(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        first = back_up(settings, tmp_path / "backups")
        remember(settings.data_dir, port=9092)
        back_up(settings, tmp_path / "backups")
        for name, source, port in (("a", tmp_path / "backups", 9092), ("b", first.folder, 9091)):
            restore(settings_of(tmp_path / name), source)
            assert remembered(tmp_path / name)["port"] == port

    def test_is_refused_where_something_is_already(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        back_up(settings, tmp_path / "backups")
        before = files(settings.data_dir)
        with pytest.raises(CannotRestore, match="DATA_DIR must be fresh"):
            restore(settings, tmp_path / "backups")
        elsewhere = settings_of(tmp_path / "new", registry_url=str(settings.registry_path))
        with pytest.raises(CannotRestore, match="and REGISTRY_URL"):
            restore(elsewhere, tmp_path / "backups")
        assert files(settings.data_dir) == before

    def test_obeys_settings_that_put_ledger_and_registry_elsewhere(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        back_up(settings, tmp_path / "backups")
        there = settings_of(
            tmp_path / "new",
            registry_url=str(tmp_path / "disk/registry"),
            ledger_url=f"sqlite:///{tmp_path}/disk/facts.db",
        )
        restore(there, tmp_path / "backups")
        assert set(files(tmp_path / "disk")) == {
            "facts.db",
            "registry/p1/versions/1/member-00.safetensors",
        }

    def test_brings_a_ledger_from_postgresql_and_to_it(
        self, settings: Settings, tmp_path: Path, postgresql: PostgreSQL
    ) -> None:
        first, second = postgresql.empty(), postgresql.empty("second")
        upgrade(first)
        ledger = Ledger(first)
        row = ledger.projects.ensure(LOCAL, 7, CREATED_S, title="Urine")
        ledger.events.add(row.id, "ANNOTATION_CREATED", [1])
        ledger.processes.beat("w", "web", "", "here", 1)  # everything runs meanwhile
        made = back_up(settings.model_copy(update={"ledger_url": first}), tmp_path / "backups")
        assert verify(made.folder) == made.manifest
        there = settings_of(tmp_path / "new", ledger_url=second)
        moved = "http://127.0.0.1:8099"
        restore(there, tmp_path / "backups", label_studio_url=moved)
        restored = Ledger(second)
        restored.check_schema()
        assert [(each.server, each.title) for each in restored.projects.all()] == [(moved, "Urine")]
        assert restored.events.pending(row.id) == ledger.events.pending(row.id)
        assert "ledger.sqlite3" not in files(there.data_dir)
        with pytest.raises(LedgerUnavailable, match="TO holds other data"):
            restore(settings_of(tmp_path / "third", ledger_url=second), tmp_path / "backups")
        assert set(files(tmp_path / "third")) == {"secrets.json"}
        restore(settings_of(tmp_path / "file"), tmp_path / "backups")
        for opened in (ledger, restored):
            opened.close()

    @pytest.mark.parametrize("damage", [b"Weights", None])
    def test_leaves_nothing_of_a_damaged_one(
        self, settings: Settings, fresh: Settings, tmp_path: Path, damage: bytes | None
    ) -> None:
        made = back_up(settings, tmp_path / "backups")
        weights = made.folder / "registry/p1/versions/1/member-00.safetensors"
        weights.write_bytes(damage) if damage else weights.unlink()
        with pytest.raises(BadBackup, match=r"is damaged: registry/p1/.*member-00.safetensors \("):
            verify(made.folder)
        with pytest.raises(BadBackup, match=r"member-00.safetensors (is not what|cannot be read)"):
            restore(fresh, tmp_path / "backups")
        assert set(files(fresh.data_dir)) == {"secrets.json"}
        weights.write_bytes(b"weights")
        restore(fresh, tmp_path / "backups")

    def test_reads_no_manifest_that_it_does_not_understand(
        self, settings: Settings, fresh: Settings, tmp_path: Path
    ) -> None:
        manifest = back_up(settings, tmp_path / "backups").folder / "manifest.json"
        whole = json.loads(manifest.read_text())
        saved = {"sha256": "", "size": 0, "mtime_ns": 0}

        def naming(name: str, **said: object) -> str:
            return json.dumps({**whole, "files": {**whole["files"], name: {**saved, **said}}})

        for text, said in (
            (manifest.read_text()[:100], "cannot be read"),
            ("[" * 100_000, "cannot be read"),
            (json.dumps({**whole, "format": 2, "release": "9.0"}), "made by release 9.0"),
            (json.dumps({**whole, "files": {}}), "names no ledger"),
            (naming("data/a", mtime_ns="now"), "cannot be read"),
            (naming("data/a", mtime_ns=10**30), "cannot be read"),
            (naming("../stray"), "leads out of it"),
            (naming("/stray"), "leads out of it"),
            (naming(f"data/{tmp_path}/stray"), "leads out of it"),  # two slashes
            (naming("data/a\0b"), "leads out of it"),
        ):
            manifest.write_text(text)
            with pytest.raises(BadBackup, match=said):
                restore(fresh, tmp_path / "backups")

    def test_of_a_folder_without_backups_says_so(self, fresh: Settings, tmp_path: Path) -> None:
        with pytest.raises(BadBackup, match="holds no whole backup"):
            restore(fresh, tmp_path)


class TestALabelStudioThatHasAnotherAddress:
    def test_takes_its_projects_and_its_names_along(self, tmp_path: Path) -> None:
        old = make_settings(tmp_path / "old")
        work = Workplace(old)
        work.ledger.projects.ensure(SERVER, 7, CREATED_S, title="Urine")
        work.close()
        remember_name(old.data_dir, SERVER, "http://proxy.test")
        back_up(old, tmp_path / "backups")
        moved = "http://moved.test"
        here = settings_of(tmp_path / "new", label_studio_url=moved, label_studio_api_key="k")
        with pytest.raises(CannotRestore, match=f"add --label-studio-url {moved}; if not, add"):
            restore(here, tmp_path / "backups")
        restore(here, tmp_path / "backups", moved)
        work = Workplace(here)
        assert work.ledger.projects.of_studio(moved, 7).title == "Urine"
        assert not work.ledger.projects.all(server=SERVER)
        work.close()
        assert announced_names(here.data_dir, moved) == [SERVER, "http://proxy.test"]
        assert verify(tmp_path / "backups" / all_backups(tmp_path / "backups")[0])

    def test_that_the_ledger_knows_by_both_stays_with_the_old_one(self, tmp_path: Path) -> None:
        old, moved = make_settings(tmp_path / "old"), "http://moved.test"
        work = Workplace(old)
        for server in (SERVER, moved):
            work.ledger.projects.ensure(server, 7, CREATED_S, title="Urine")
        work.close()
        back_up(old, tmp_path / "backups")
        here = settings_of(tmp_path / "new")
        with pytest.raises(CannotRestore, match="cannot become one"):
            restore(here, tmp_path / "backups", moved)
        restore(here, tmp_path / "backups", SERVER)

    def test_may_be_the_one_of_make_run(
        self, settings: Settings, fresh: Settings, tmp_path: Path
    ) -> None:
        back_up(settings, tmp_path / "backups")
        with pytest.raises(CannotRestore, match="needs a port"):
            restore(fresh, tmp_path / "backups", "http://10.0.0.7")
        restore(fresh, tmp_path / "backups", "http://10.0.0.7:8080")
        assert remembered(fresh.data_dir)["label_studio_url"] == "http://10.0.0.7:8080"


@pytest.fixture
def label_studio() -> Iterator[SmallStudio]:
    server = SmallStudio(tasks=12, image=encode_png(disc_examples(1)[0].image))
    yield server
    server.close()


def test_a_round_goes_on_elsewhere_from_a_backup_taken_in_its_midst(
    tmp_path: Path, label_studio: SmallStudio
) -> None:
    given = {**GIVEN, "label_studio_url": label_studio.url, "network": NETWORK, "engine": "torch"}
    old = make_settings(tmp_path / "old", **given)
    work = Workplace(old)
    round_ = begin_round(work)
    do_next(work, round_)  # the first member
    slug = work.ledger.projects.get(round_.project_id).slug
    acted: list[str] = []

    def others_act(doing: str) -> None:
        """At the next step the round ends over there, and what it leaves is cleared up."""
        acted.append(doing)
        work.ledger.events.add(round_.project_id, "ANNOTATION_CREATED")
        work.registry.put_example(slug, f"new-{len(acted)}", disc_examples(1)[0])
        work.registry.drop_round(slug, round_.id)
        work.registry.prune_examples(slug, set())

    back_up(old, tmp_path / "backups", others_act)
    assert len(acted) > 5
    work.registry.drop_round(slug, round_.id)
    work.close()

    here = settings_of(tmp_path / "new", **given)
    restore(here, tmp_path / "backups")
    work = Workplace(here)
    assert [part.state for part in work.ledger.parts.of_round(round_.id, "fit")] == [
        "done",
        "waiting",
    ]
    for _ in ("the second member", "assemble", "choose", "score", "publish"):
        do_next(work, round_)
    ended = work.ledger.rounds.get(round_.id)
    assert (ended.state, ended.error) == ("succeeded", None)
    serving = work.ledger.publications.serving(round_.project_id)
    assert serving is not None
    assert label_studio.predictions == {serving.name: 12}
    assert label_studio.model_version == serving.name
    committee = work.registry.load(slug, serving.version)
    assert committee.predict(disc_examples(1)[0].image).predicted.shape == (72, 88)
    work.close()


def begin_round(work: Workplace) -> Round:
    """A training round past its collecting; its first member waits."""
    row = work.ledger.projects.ensure(
        work.server, 1, CREATED_S, title="Urine", label_config=brush_config("dark", "bright")
    )
    examples = disc_examples(6)
    for example in examples:
        work.registry.put_example(row.slug, example.key, example)
    started = work.ledger.rounds.start(row.id, "train", "asked for", "collect", {})
    assert started is not None
    part = work.ledger.parts.take(work.ledger.parts.of_round(started.id)[0].id, "a test")
    assert part is not None
    work.ledger.parts.finish(
        part,
        Outcome(
            next_payloads=[{"member": 0}, {"member": 1}],
            config=CONFIG.to_json(),
            manifest=[
                {
                    "task": 100 + number,
                    "stamp": "s",
                    "annotations": [],
                    "audit": False,
                    "url": None,
                    "digest": example.key,
                }
                for number, example in enumerate(examples)
            ],
        ),
        next_stage="fit",
    )
    return started


def do_next(work: Workplace, round_: Round) -> None:
    waiting = [p for p in work.ledger.parts.of_round(round_.id) if p.state == "waiting"]
    part = work.ledger.parts.take(waiting[0].id, "a test", work.server)
    assert part is not None
    do_part(work, part)


class TestTheCommands:
    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        def invoke(data_dir: Path, *arguments: object, status: int = 0) -> Result:
            monkeypatch.setenv("DATA_DIR", str(data_dir))
            done = CliRunner().invoke(cli, list(map(str, arguments)))
            assert done.exit_code == status, done.output
            return done

        return invoke

    def test_back_up_check_and_restore(
        self, settings: Settings, tmp_path: Path, run: Callable[..., Result]
    ) -> None:
        target, data = tmp_path / "backups", settings.data_dir
        assert "7 files, 7 of them new" in run(data, "backup", target).output
        second = json.loads(run(data, "backup", target, "--json").stdout)
        assert json_keys()["backend backup"] == second.keys()
        assert (second["files"], second["removed"]) == (7, 0)
        assert "2 older backups are removed" in run(data, "backup", target, "--keep", 1).output
        (left,) = all_backups(target)
        assert f"{left} is whole: 7 files." in run(data, "backup", target, "--verify").output
        both = run(data, "backup", target, "--verify", "--keep", 1, status=2).output
        assert "give one of them" in both
        shown = run(tmp_path / "new", "restore", target).output
        assert f"is in {tmp_path}/new." in shown
        for folder in (left, tmp_path / "new"):
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
            assert modes == {0o700, 0o600}
        assert "Next: `make run`" in shown
        assert "must be fresh" in run(tmp_path / "new", "restore", target, status=1).output

    def test_a_foreign_label_studio_is_its_owners_to_back_up(
        self, tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_settings(tmp_path / "served")
        monkeypatch.setenv("LABEL_STUDIO_URL", SERVER)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "k")
        shown = run(tmp_path / "served", "backup", tmp_path / "b").output
        assert f"whoever runs the Label Studio at {SERVER} must back it up" in " ".join(
            shown.split()
        )
        monkeypatch.delenv("LABEL_STUDIO_URL")
        monkeypatch.delenv("LABEL_STUDIO_API_KEY")
        shown = run(tmp_path / "new", "restore", tmp_path / "b").output
        assert f"Set LABEL_STUDIO_URL={SERVER} and LABEL_STUDIO_API_KEY" in shown

    def test_an_address_that_is_none_is_refused(
        self, settings: Settings, tmp_path: Path, run: Callable[..., Result]
    ) -> None:
        shown = run(
            tmp_path / "new", "restore", tmp_path, "--label-studio-url", "lab", status=1
        ).output
        assert "must be an http:// or https:// address, got 'lab'" in shown
