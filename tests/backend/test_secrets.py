"""Secrets stay where they are: each setting holds a word of its own, and after everything that can
speak has spoken, none of the words is in logs, answers, jobs or the ledger."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from redis import Redis

from backend.cli import cli
from backend.errors import BadSettings, StudioRefused
from backend.jobs import jobs
from backend.jobs.clock import Clock
from backend.label_studio.bulk import Studio
from backend.ledger import upgrade
from backend.ledger.agreement import facts_of
from backend.local.valkey import embedded_valkey
from backend.settings import Settings, load_settings
from backend.web.app import build_app
from backend.workplace import Workplace
from tests.backend.host import Host, status
from tests.backend.workplaces import brush_config
from tests.live.harness.servers import ROOT, ValkeyServer, start_valkey
from training.config import TrainConfig
from training.networks.build import build_network

WORDS = {
    "api key": "tattle-api-key-0123456789abcdef01234567",
    "basic password": "tattle-basic-password",
    "metrics token": "tattle-metrics-token",
    "shared secret": "tattle-shared-secret-0123456789abcdef",
    "redis password": "tattle-redis-password",
    "signature": "tattle-signature",
    "user info": "tattle-user-info",
    "creator's token": "tattle-creator-token",
    "task password": "tattle-task-password",
    "file uri": "dGF0dGxlLWZpbGUtdXJp",
}
CONFIG = brush_config("Cell")
CREATED = "2026-01-02T03:04:05Z"
PROJECT = "1.1767323045"


def told(text: str | bytes) -> set[str]:
    """Which of the secrets are in there."""
    raw = text if isinstance(text, bytes) else text.encode()
    return {what for what, word in WORDS.items() if word.encode() in raw}


def echo(request: BaseHTTPRequestHandler) -> None:
    """A server that refuses, and says what it was sent."""
    said = json.dumps({"detail": f"no {request.headers.get('Authorization')}"}).encode()
    request.send_response(403)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(said)))
    request.end_headers()
    request.wfile.write(said)


def bad_headers(request: BaseHTTPRequestHandler) -> None:
    """An answer that urllib3 complains of in its own log, with the whole address."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nno header\r\nX: 1\r\n\r\nhello")
    request.close_connection = True


@pytest.fixture
def label_studio() -> Iterator[Host]:
    host = Host()
    host.pages["/api/projects/1/"] = echo
    host.pages["/data/upload/1/gone.png"] = status(404)
    host.pages["/tasks/7/resolve/"] = echo
    yield host
    host.close()


@pytest.fixture
def elsewhere() -> Iterator[Host]:
    host = Host()
    host.pages["/bad-headers.png"] = bad_headers
    yield host
    host.close()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = start_valkey(folder)
    with Redis.from_url(server.url) as connection:
        connection.config_set("requirepass", WORDS["redis password"])
    yield server
    server.stop()


@pytest.fixture
def environment(
    tmp_path: Path, label_studio: Host, elsewhere: Host, valkey: ValkeyServer
) -> dict[str, str]:
    return {
        "DATA_DIR": str(tmp_path / "data"),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": WORDS["api key"],
        "REDIS_URL": valkey.url.replace("//", f"//:{WORDS['redis password']}@"),
        "BASIC_AUTH_USER": "lab",
        "BASIC_AUTH_PASS": WORDS["basic password"],
        "METRICS_TOKEN": WORDS["metrics token"],
        "SHARED_SECRET": WORDS["shared secret"],
        "ALLOWED_IMAGE_HOSTS": elsewhere.name,
        "ENGINE": "torch",
    }


@pytest.fixture
def settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    loaded = load_settings(_env_file=None)
    upgrade(loaded.ledger_url)
    return loaded


def images_of(elsewhere: Host) -> list[str]:
    """Addresses that each fail in another way, all with something to keep to oneself."""
    signed = f"X-Amz-Signature={WORDS['signature']}"
    return [
        f"{elsewhere.url}/gone.png?{signed}",
        f"{elsewhere.url}/bad-headers.png?{signed}",
        f"http://not-allowed.example/x.png?{signed}",
        f"http://lab:{WORDS['user info']}@{elsewhere.name}/x.png",
        f"s3://bucket/x.png?{signed}",
        f"/data/upload/1/gone.png?{signed}",
        f"/tasks/7/resolve/?fileuri={WORDS['file uri']}",
        f"/api/secret?{signed}",
        f"http://[bad/x?{signed}",
    ]


def round_trip(settings: Settings, elsewhere: Host) -> str:
    """Speak to everything that can answer, with secrets at hand; the answers."""
    work = Workplace(settings)
    app = build_app(settings)
    said: list[str] = [repr(settings), str(settings), repr(work.studio), repr(work.images)]

    def post(path: str, body: Any, password: str = WORDS["basic password"]) -> None:
        with app.test_client() as client:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = client.post(
                path, data=data, auth=("lab", password), content_type="application/json"
            )
            said.append(f"{answer.status} {answer.headers} {answer.text}")

    try:
        urls = images_of(elsewhere)
        tasks = [{"id": number, "data": {"image": url}} for number, url in enumerate(urls)]
        setup = {"project": PROJECT, "schema": CONFIG, "hostname": work.server}
        post("/setup", {**setup, "access_token": WORDS["creator's token"]})
        row = work.ledger.projects.all()[0]
        config = TrainConfig(("background", "Cell"), members=1, network="unet")
        torch.manual_seed(1)
        weights = [build_network(config).state_dict()]
        work.registry.save_version(row.slug, 1, weights, config, {}, {"temperature": 1.0})
        round_ = work.ledger.rounds.start(row.id, "rank", "a test", "publish", {})
        assert round_ is not None
        publication = work.ledger.publications.prepare(
            row.id, 1, round_.id, arm="", quantiles=[], places=[]
        )
        work.ledger.publications.serve(publication.id, 0)
        work.ledger.rounds.fail(round_.id, "the test needs it no more")
        params = {"login": "a", "password": WORDS["task password"], "context": None}
        post("/predict", {"tasks": tasks, "project": PROJECT, "params": params})
        project = {"id": 1, "created_at": CREATED, "label_config": CONFIG}
        annotation = {"id": 5, "result": [], "note": WORDS["task password"]}
        event = {"action": "ANNOTATION_CREATED", "project": project, "annotation": annotation}
        post("/webhook", {**event, "task": tasks[0]})
        post("/setup", {**setup, "extra_params": {"members": WORDS["signature"][:3]}})
        post("/predict", {"tasks": WORDS["task password"][:0], "project": PROJECT})
        post("/versions", b"\xff")
        post("/webhook", b"{", password="wrong")
        with app.test_client() as client:  # neither Redis nor Label Studio's token is named
            said.append(client.get("/ready").text)
        work.ledger.processes.beat("w", "web", "", "here", 1, facts_of(settings, "web"))
        for header in (f"Bearer {WORDS['metrics token']}", f"Bearer {WORDS['metrics token']}x"):
            with app.test_client() as client:
                said.append(client.get("/metrics", headers={"Authorization": header}).text)
        work.ledger.events.add(row.id, "PREDICT_REST", [task["id"] for task in tasks])
        jobs.check(row.id)
        Clock(work).tick()
        said.append(str(work.ledger.projects.get(row.id).last_error))
    finally:
        app.extensions["committee"].close()
        work.close()
    return "\n".join(said)


def dump(url: str) -> bytes:
    """All that Redis holds, as it holds it."""
    with Redis.from_url(url) as connection:
        raw = [b"%r %r" % (key, connection.dump(key)) for key in connection.keys("*")]
        hashes = [key for key in connection.keys("rq:job:*") if connection.type(key) == b"hash"]
        return b"\n".join(raw + [repr(connection.hgetall(key)).encode() for key in hashes])


def command(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "backend", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_nothing_that_speaks_tells_a_secret(
    settings: Settings,
    environment: dict[str, str],
    elsewhere: Host,
    label_studio: Host,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # As loud as the processes log, and ours louder.
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="backend")
    answers = round_trip(settings, elsewhere)
    assert "no prediction for task" in caplog.text
    assert "does not allow our user GET /api/projects/1/: no Token ***" in answers
    assert len(elsewhere.seen) == 2
    assert told(answers) == set()
    assert told(caplog.text) == set()
    for path in settings.ledger_path.parent.glob("ledger.sqlite3*"):
        assert told(path.read_bytes()) == set(), path
    held = dump(settings.redis())
    assert b"rest-" in held  # jobs were queued
    assert told(held) == set()
    for words in (["status"], ["status", "--json"], ["explain", "--project", "1"]):
        shown = CliRunner().invoke(cli, words).output
        assert "roject" in shown, shown
        assert told(shown) == set(), words
    assert told(caplog.text) == set()
    shown = command(environment, "doctor", "--json")
    assert "studio" in shown
    assert told(shown) == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LABEL_STUDIO_API_KEY", f"{WORDS['api key']} with blanks"),
        ("BASIC_AUTH_PASS", f" {WORDS['basic password']}"),
        ("SHARED_SECRET", f" {WORDS['shared secret']}"),
        ("LABEL_STUDIO_URL", f"http://lab:{WORDS['user info']}@studio.test"),
        ("REDIS_URL", f"http://:{WORDS['redis password']}@127.0.0.1"),
        ("REDIS_URL", f"redis://:{WORDS['redis password']}@127.0.0.1:0"),
    ],
)
def test_a_refused_setting_is_not_shown_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as refused:
        load_settings(_env_file=None)
    assert name in str(refused.value)
    assert told(str(refused.value)) == set()


def test_a_wrong_redis_password_is_not_shown(environment: dict[str, str]) -> None:
    wrong = {**environment, "REDIS_URL": environment["REDIS_URL"].replace(":tattle", ":x-tattle")}
    shown = command(wrong, "doctor", "--json")
    assert "redis-password" in shown
    assert told(shown) == set()


def test_a_personal_token_that_is_echoed_is_hidden(label_studio: Host) -> None:
    personal = f"aa.{WORDS['api key']}.bb"
    label_studio.pages["/api/token/refresh/"] = echo

    def refuse(request: BaseHTTPRequestHandler) -> None:
        size = int(request.headers["Content-Length"])
        said = json.dumps({"detail": request.rfile.read(size).decode()}).encode()
        request.send_response(401)
        request.send_header("Content-Length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)

    label_studio._server.RequestHandlerClass.do_POST = refuse  # type: ignore[attr-defined]
    with (
        Studio(label_studio.url, personal, timeout_s=5) as studio,
        pytest.raises(StudioRefused, match="personal access token") as refused,
    ):
        studio.whoami()
    assert told(str(refused.value)) == set()


# Files


def test_what_our_commands_make_is_their_owners_alone(tmp_path: Path) -> None:
    """In a DATA_DIR too that somebody made for all to read, under the widest umask there is."""
    data = tmp_path / "open"
    data.mkdir(mode=0o755)
    subprocess.run(
        [sys.executable, "-m", "backend", "migrate"],
        cwd=ROOT,
        env={**os.environ, "DATA_DIR": str(data)},
        umask=0,
        check=True,
    )
    made = {path.name: mode(path) for path in data.iterdir()}
    assert {"ledger.sqlite3", "secrets.json"} <= made.keys()
    assert set(made.values()) <= {0o600, 0o700}, made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_holds_secrets_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the widest umask that there is."""
    before = os.umask(0)
    try:
        settings = load_settings(_env_file=None, data_dir=tmp_path / "data")
        embedded_valkey(settings.data_dir, {})
    finally:
        os.umask(before)
    data = tmp_path / "data"
    assert mode(data) == 0o700
    assert mode(data / "secrets.json") == 0o600
    assert mode(data / "valkey") == 0o700
    assert mode(data / "valkey" / "valkey.conf") == 0o600
