"""`make run` with the real servers: up, used, crashed, stopped, killed; nothing lost or left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from PIL import Image
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console

from backend.data_dir import remembered
from backend.errors import StudioRefused
from backend.insight.findings.studio import signup_findings
from backend.label_studio.bulk import Studio
from backend.label_studio.control import control_of
from backend.ledger import Ledger
from backend.local.demo import project as demo
from backend.local.demo.record import recorded, still_exists
from backend.local.progress import ProgressReporter
from backend.settings import ROOT, Settings, load_settings
from tests.limits import scaled, wait_until
from tests.live.harness.rows import backends_of, webhooks_of
from tests.live.harness.servers import LabelStudio, Process

pytestmark = pytest.mark.live

START_LIMIT_S = 240
STOP_LIMIT_S = 10
EVERYTHING = "Ctrl-C stops it all; nothing is lost."


class Running:
    """`python -m backend run` on ``data_dir``, as make starts it."""

    def __init__(self, data_dir: Path, log: Path, *arguments: str, **environment: str) -> None:
        bare = {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}
        self.data_dir = data_dir
        own = {"DATA_DIR": str(data_dir), "WORKERS": "1", "MEMBERS": "1"}
        self.environment = {**bare, **own, **environment}
        self.command = [sys.executable, "-m", "backend", "run", *arguments]
        self.process = Process(self.command, log, self.environment, cwd=ROOT)

    def wait(self) -> Running:
        def up() -> bool:
            assert self.process.alive(), self.process.tail()
            return EVERYTHING in self.process.log.read_text()

        wait_until(up, START_LIMIT_S, "everything to run")
        return self

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, part: str) -> psutil.Process:
        """The direct child whose command line holds ``part``."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if part in " ".join(child.cmdline()))

    def backend(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "backend", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def settings(self) -> Settings:
        return load_settings(_env_file=None, data_dir=self.data_dir)


def gone(family: list[psutil.Process], limit_s: float) -> bool:
    """Whether all have ended in time; an orphan may wait, dead, for whoever adopted it."""
    _, left = psutil.wait_procs(family, timeout=scaled(limit_s))
    return all(one.status() == psutil.STATUS_ZOMBIE for one in left)


@pytest.fixture
def data_dir(label_studio_template: Path, tmp_path: Path) -> Path:
    """A DATA_DIR whose Label Studio has its migrations behind it, to save a minute."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copytree(label_studio_template, folder / "label-studio")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 80, 3), np.uint8)).save(folder / "one.png")
    Image.fromarray(rng.integers(0, 4096, (64, 80)).astype(np.uint16)).save(folder / "two.tif")
    (folder / "three.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def running(data_dir: Path, images: Path, tmp_path: Path) -> Iterator[Running]:
    started = Running(data_dir, tmp_path / "run.log", "--images", str(images))
    yield started
    started.process.stop(STOP_LIMIT_S)


def test_one_command_brings_everything_up_and_takes_everything_down(
    running: Running, images: Path, tmp_path: Path
) -> None:
    running.wait()
    said = running.process.log.read_text()
    assert "1 of 3 images were left out" in said
    assert "three.jpg" in said
    _the_login_that_was_printed_works(said)
    settings = running.settings()
    with Studio(*settings.label_studio()) as studio:
        (project,) = [
            p for p in control_of(studio).all_projects() if p.title.startswith(demo.TITLE)
        ]
        assert len(list(studio.tasks(project.id))) == 2
        assert [(b.url, b.state) for b in backends_of(studio, project.id)] == [
            (settings.backend_url, "CO")
        ]
        _an_events_secret_is_its_own_and_it_arrives(settings, studio, project.id)
    assert list(signup_findings(str(settings.label_studio_url))) == []
    roles = [one["role"] for one in json.loads(running.backend("status", "--json"))["processes"]]
    assert {"web", "worker"} <= set(roles)
    _all_are_of_one_session(running)
    _a_second_one_refuses(running)
    _whatever_crashes_comes_back(running)
    _ctrl_c_leaves_nothing(running)
    again = Running(running.data_dir, tmp_path / "again.log", "--images", str(images)).wait()
    try:
        with Studio(*again.settings().label_studio()) as studio:
            assert len(list(studio.tasks(project.id))) == 2
            assert len(list(control_of(studio).all_projects())) == 1
        family = again.family()
        again.process.popen.kill()
        assert gone(family, 5), "something survived the supervisor's kill -9"
    finally:
        again.process.stop(STOP_LIMIT_S)


def _all_are_of_one_session(running: Running) -> None:
    """In which jobs yield to the web alone: backend/jobs/niceness.py."""
    sessions = {os.getsid(process.pid) for process in running.family()}
    assert sessions == {os.getsid(running.process.pid)}


def _an_events_secret_is_its_own_and_it_arrives(
    settings: Settings, studio: Studio, project_id: int
) -> None:
    (hook,) = webhooks_of(studio, project_id)
    assert hook.headers is not None
    assert hook.headers["Authorization"].startswith("Bearer ")
    ledger = Ledger(settings.ledger_url)
    row = ledger.projects.of_studio(str(settings.label_studio_url), project_id)
    studio.annotate(next(studio.tasks(project_id)).id, [])
    wait_until(
        lambda: "ANNOTATION_CREATED" in {each.action for each in ledger.events.pending(row.id)},
        *(20, "the event of an annotation"),
    )
    ledger.close()


def _the_login_that_was_printed_works(said: str) -> None:
    def printed(pattern: str) -> str:
        found = re.search(pattern, said)
        assert found is not None, said
        return found[1]

    url = printed(r"Label Studio +(http://\S+)")
    session = requests.Session()
    page = f"{url}/user/login/"
    session.get(page, timeout=30)
    answer = session.post(
        page,
        data={
            "email": printed(r"log in as +(\S+)"),
            "password": printed(r"password +(\S+)"),
            "csrfmiddlewaretoken": session.cookies["csrftoken"],
        },
        headers={"Referer": page},
        timeout=30,
        allow_redirects=False,
    )
    assert answer.status_code == 302


def _a_second_one_refuses(running: Running) -> None:
    done = subprocess.run(
        running.command,
        cwd=ROOT,
        env=running.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "`make run` is already running on" in done.stdout


def _whatever_crashes_comes_back(running: Running) -> None:
    settings = running.settings()
    web, label_studio = settings.backend_url, settings.label_studio()[0]

    def answers(url: str) -> bool:
        try:
            return requests.get(f"{url}/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def pongs() -> bool:
        try:
            with Redis.from_url(settings.redis()) as client:
                return bool(client.ping())
        except RedisError:
            return False

    def works() -> bool:
        parent = running.child("backend worker")
        return (settings.data_dir / "run" / f"worker-{parent.pid}.alive").exists()

    for name, part, ready in (
        ("web", "backend serve", lambda: answers(web)),
        ("worker", "backend worker", works),
        ("Valkey", "valkey-server", pongs),
        ("Label Studio", "bin/label-studio", lambda: answers(label_studio)),
    ):
        _crash(running, name, part, ready)


def _crash(running: Running, name: str, part: str, ready: Callable[[], bool]) -> None:
    first = running.child(part)
    family = [first, *first.children(recursive=True)]
    first.kill()

    def back() -> bool:
        try:
            return running.child(part).pid != first.pid and ready()
        except (StopIteration, psutil.NoSuchProcess):
            return False

    wait_until(back, START_LIMIT_S, f"the second start of {name}")
    assert gone(family, 5), f"something survived the kill -9 of {name}"
    assert f"{name} ended (signal 9)" in running.process.log.read_text()


def _ctrl_c_leaves_nothing(running: Running) -> None:
    family = running.family()
    assert len(family) >= 6
    running.process.popen.send_signal(signal.SIGINT)
    assert running.process.popen.wait(scaled(STOP_LIMIT_S)) == 0
    assert gone(family, 1)
    assert "Stopped" in running.process.tail()


def test_with_another_label_studio_only_our_side_starts(
    label_studio: LabelStudio, tmp_path: Path
) -> None:
    running = Running(
        tmp_path / "data",
        tmp_path / "run.log",
        LABEL_STUDIO_URL=label_studio.url,
        LABEL_STUDIO_API_KEY=label_studio.api_key,
    )
    try:
        running.wait()
        assert "connect --project ID" in running.process.log.read_text()
        assert not (tmp_path / "data" / "label-studio").exists()
        assert "label_studio_url" not in remembered(tmp_path / "data")
    finally:
        running.process.stop(STOP_LIMIT_S)


class Broken(Exception):
    """Stands for a kill in the middle of things."""


def test_an_interrupted_demo_goes_on_without_doubles(
    label_studio: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "FIELDS", 6)
    monkeypatch.setattr(demo, "BATCH", 2)
    monkeypatch.setattr(demo, "ANNOTATED", 3)
    settings = load_settings(
        _env_file=None,
        data_dir=tmp_path,
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.api_key,
    )
    narrator = ProgressReporter(Console(file=StringIO()))
    for method in ("upload", "annotate"):
        with monkeypatch.context() as patch:
            _break_on_its_second_call(patch, method)
            with pytest.raises(Broken):
                demo.make_demo(settings, None, narrator)
        # As if the note had been lost too: the project is known by its mark.
        (tmp_path / "demo.json").unlink()
    project_id = demo.make_demo(settings, None, narrator)
    assert demo.make_demo(settings, None, narrator) == project_id
    with Studio(label_studio.url, label_studio.api_key) as studio:
        tasks = list(studio.tasks(project_id))
        assert len(tasks) == 6
        assert len(demo._tasks_by_file(studio, project_id)) == 6
        assert sorted(task.annotations for task in tasks) == [0, 0, 0, 1, 1, 1]
        assert [p.id for p in control_of(studio).all_projects() if p.title == demo.TITLE] == [
            project_id
        ]
        assert still_exists(studio, recorded(tmp_path, "drawn"))
        control_of(studio).projects.delete(project_id)
        with pytest.raises(StudioRefused):
            studio.project(project_id)
        assert not still_exists(studio, recorded(tmp_path, "drawn"))


def _break_on_its_second_call(patch: pytest.MonkeyPatch, method: str) -> None:
    calls: list[int] = []
    real = getattr(Studio, method)

    def breaking(self: Studio, *arguments: object, **fields: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise Broken
        return real(self, *arguments, **fields)

    patch.setattr(Studio, method, breaking)
