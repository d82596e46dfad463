"""The doctor where no real server is needed, or none would fail on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from backend.insight import doctor
from backend.insight import installation_checks as surroundings
from backend.insight.finding import Finding, report
from backend.label_studio.client import Json
from backend.label_studio.connection import basic_auth
from backend.ledger import upgrade
from backend.settings import Settings, load_settings
from backend.web.model import POOL, TEACHING
from backend.workplace import Workplace
from tests.live.servers import free_port
from tests.served import Served

USER, PASSWORD = "lab", "secret-8731"
API_KEY = "5ec4e7" + "0" * 34
MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    def make(**fields: Any) -> Settings:
        given: dict[str, Any] = {
            "data_dir": tmp_path,
            "label_studio_url": f"http://127.0.0.1:{free_port()}",
            "label_studio_api_key": API_KEY,
            "redis_url": f"redis://:secret-8732@127.0.0.1:{free_port()}/0",
            "backend_url": f"http://127.0.0.1:{free_port()}",
            "basic_auth_user": USER,
            "basic_auth_pass": PASSWORD,
        }
        return load_settings(_env_file=None, **(given | fields))

    return make


@pytest.fixture
def work(make_settings: MakeSettings) -> Iterator[Workplace]:
    settings = make_settings()
    upgrade(settings.ledger_url)
    opened = Workplace(settings)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.label_studio.client.RETRY_AFTER_S", ())


class Web(Served):
    """A web that answers as told: /health after ``slow_s``, the rest for ``password``.

    Label Studio's calls may come with one of ``also`` instead; None there is no password.
    """

    def __init__(self) -> None:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Authorization") not in (web.password, *web.also):
                    self.answer(401, {})
                elif self.path == "/webhook":
                    self.answer(201, {})
                else:
                    self.answer(200, {"model_version": "untrained", "results": [[]]})

            def do_GET(self) -> None:
                if self.path == "/health":
                    threading.Event().wait(web.slow_s)
                    self.answer(200, web.health)
                elif web.password in (None, self.headers.get("Authorization")):
                    self.answer(200, {"versions": []})
                else:
                    self.answer(401, {})

            def answer(self, status: int, body: Json) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        self.health: Json = {"status": "UP"}
        self.slow_s = 0.0
        self.password: str | None = basic_auth(USER, PASSWORD)
        self.also: tuple[str | None, ...] = ()
        super().__init__(Handler)


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


def codes(findings: list[Finding]) -> dict[str, str]:
    return {finding.code: finding.severity for finding in findings}


# The web


def test_a_sound_web_is_well(web: Web, make_settings: MakeSettings):
    found = surroundings.check_web(make_settings(backend_url=web.url), reached=False)
    assert codes(found) == {"web": "ok"}


def test_a_web_slower_than_label_studio_waits_is_an_error(web: Web, make_settings: MakeSettings):
    web.slow_s = 1.05
    found = surroundings.check_web(make_settings(backend_url=web.url), reached=True)
    assert codes(found) == {"web-slow": "error"}
    measured_ms = int(found[0].what.split(" ms")[0].rsplit(" ", 1)[1])
    assert 1050 <= measured_ms < 4000


def test_a_web_at_half_the_limit_is_a_warning(web: Web, make_settings: MakeSettings):
    web.slow_s = 0.55
    found = surroundings.check_web(make_settings(backend_url=web.url), reached=True)
    assert codes(found) == {"web-slow": "warning"}


def test_a_web_with_another_password_is_an_error(web: Web, make_settings: MakeSettings):
    web.password = basic_auth(USER, "another")
    found = surroundings.check_web(make_settings(backend_url=web.url), reached=True)
    assert codes(found)["web-password"] == "error"


def test_a_web_without_any_password_is_an_error(web: Web, make_settings: MakeSettings):
    web.password = None
    found = surroundings.check_web(make_settings(backend_url=web.url), reached=True)
    assert codes(found)["web-unprotected"] == "error"


def test_something_else_at_our_address_is_an_error(web: Web, make_settings: MakeSettings):
    web.health = {"hello": "world"}
    found = surroundings.check_web(make_settings(backend_url=web.url), reached=False)
    assert codes(found) == {"web-not-ours": "error"}


def test_an_absent_web_matters_less_where_label_studio_reaches_it(make_settings: MakeSettings):
    settings = make_settings()
    assert codes(surroundings.check_web(settings, reached=False)) == {"web-unreachable": "error"}
    assert codes(surroundings.check_web(settings, reached=True)) == {"web-unreachable": "warning"}


# Label Studio


@pytest.mark.parametrize(
    ("release", "code"),
    [
        ("1.23.2", "studio"),
        ("1.23.0.post1", "studio"),
        ("1.22.9", "studio-version-old"),
        ("0.9", "studio-version-old"),
        ("1.24.0", "studio-version-unknown"),
        ("2.0", "studio-version-unknown"),
        ("develop", "studio-version-unknown"),
        ("", "studio-version-unknown"),
    ],
)
def test_each_release_is_known_old_or_unknown(release: str, code: str):
    assert surroundings.check_version(release, "http://studio.test").code == code


@pytest.mark.parametrize(
    ("skew_s", "expected"), [(0, []), (59, []), (-59, []), (62, ["ahead of"]), (-62, ["behind"])]
)
def test_clocks_may_differ_by_a_minute(skew_s: float, expected: list[str]):
    now = 1_795_468_880.0
    found = list(surroundings.check_clock(formatdate(now + skew_s, usegmt=True), now))
    assert [f.code for f in found] == ["clock-skew"] * len(expected)
    assert all(word in f.what for word, f in zip(expected, found, strict=True))


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_missing_date_is_no_finding(date: str):
    assert list(surroundings.check_clock(date, 0.0)) == []


def test_without_a_label_studio_the_setting_is_named(make_settings: MakeSettings):
    settings = make_settings(label_studio_url=None, label_studio_api_key=None)
    (found,) = surroundings.check_label_studio(Workplace(settings))
    assert found.code == "studio-unset"
    assert "LABEL_STUDIO_URL" in found.mend


# Redis


@pytest.mark.parametrize(
    ("policy", "limit", "severity"),
    [
        ("noeviction", 100 << 20, "ok"),
        ("allkeys-lru", 0, "ok"),
        ("allkeys-lru", 100 << 20, "error"),
        ("volatile-ttl", 100 << 20, "error"),
    ],
)
def test_redis_may_not_throw_jobs_away(policy: str, limit: int, severity: str):
    found = surroundings.check_eviction({"maxmemory_policy": policy, "maxmemory": limit})
    assert found.severity == severity


def test_an_absent_redis_is_an_error(work: Workplace):
    assert codes(surroundings.check_redis(work)) == {"redis-away": "error"}


def test_an_unset_redis_names_the_setting(make_settings: MakeSettings):
    (found,) = surroundings.check_redis(Workplace(make_settings(redis_url=None)))
    assert found.code == "redis-unset"
    assert "REDIS_URL" in found.mend


# Ledger, disk, workers


def test_a_missing_ledger_is_not_made_by_looking_and_is_made_by_mending(
    make_settings: MakeSettings,
):
    work = Workplace(make_settings())
    (found,) = surroundings.check_ledger(work)
    assert (found.code, found.fixable) == ("ledger-schema", True)
    assert not work.settings.ledger_path.exists()
    assert "schema" in doctor.mend(work, found)
    assert codes(surroundings.check_ledger(work)) == {"ledger": "ok"}
    work.close()


def test_a_ledger_that_is_no_database_is_an_error(make_settings: MakeSettings):
    work = Workplace(make_settings())
    work.settings.ledger_path.write_bytes(b"no database at all" * 300)
    (found,) = surroundings.check_ledger(work)
    assert (found.code, found.severity, found.fixable) == ("ledger", "error", False)
    work.close()


@dataclass
class Mount:
    mountpoint: str
    fstype: str


def test_a_ledger_across_the_network_is_an_error(tmp_path: Path):
    mounts = [Mount("/", "ext4"), Mount(str(tmp_path), "nfs4"), Mount("/elsewhere", "cifs")]
    found = list(surroundings.check_filesystem(tmp_path / "ledger.sqlite3", mounts))
    assert [f.code for f in found] == ["ledger-on-network"]
    local = [Mount("/", "nfs4"), Mount(str(tmp_path), "ext4")]
    assert list(surroundings.check_filesystem(tmp_path / "ledger.sqlite3", local)) == []


@pytest.mark.parametrize(
    ("free", "severity"), [(200 << 20, "error"), (1 << 30, "warning"), (3 << 30, "ok")]
)
def test_a_disk_is_full_low_or_well(tmp_path: Path, free: int, severity: str):
    assert surroundings.check_disk(tmp_path, free).severity == severity


def test_workers_that_never_came_are_an_error(work: Workplace):
    assert codes(surroundings.check_workers(work)) == {"workers-silent": "error"}


def test_workers_that_fell_silent_are_an_error_and_say_since_when(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
):
    work.ledger.processes.beat("worker-a", "worker", "2 jobs", "host", 1)
    now = time.time()
    monkeypatch.setattr(surroundings.time, "time", lambda: now + 100)
    (found,) = surroundings.check_workers(work)
    assert (found.code, found.severity) == ("workers-silent", "error")
    assert "100 s ago" in found.what


def test_one_silent_worker_of_two_is_a_warning(work: Workplace, monkeypatch: pytest.MonkeyPatch):
    work.ledger.processes.beat("worker-a", "worker", "2 jobs", "host", 1)
    now = time.time()
    monkeypatch.setattr("backend.ledger.processes.time.time", lambda: now + 100)
    work.ledger.processes.beat("worker-b", "worker", "2 jobs", "host", 2)
    assert codes(surroundings.check_workers(work)) == {"workers-silent": "warning"}


# The whole, and its words


def test_with_everything_away_each_is_named_and_no_secret_shown(work: Workplace):
    found = doctor.examine(work)
    shown = codes(found)
    for code in ("studio-unreachable", "web-unreachable", "redis-away", "workers-silent"):
        assert shown[code] == "error"
    text = report(found) + json.dumps([f.to_json() for f in found])
    for secret in (API_KEY, PASSWORD, "secret-8732"):
        assert secret not in text


def test_what_cannot_be_mended_says_what_to_do(work: Workplace):
    finding = Finding("overlap", "warning", 3, "Twice each.", "Set it to 1.")
    assert doctor.mend(work, finding) == "overlap cannot be mended from here. Set it to 1."


def test_a_mending_that_fails_is_a_sentence(work: Workplace):
    finding = Finding("webhook-missing", "error", 3, "None.", "Connect.", fixable=True)
    assert doctor.mend(work, finding).startswith("webhook-missing could not be mended: Label")


def test_a_report_puts_the_worst_first_and_counts():
    findings = [
        Finding("studio", "ok", None, "It answers."),
        Finding("locks", "ok", 2, "A lock lasts."),
        Finding("overlap", "warning", 2, "Twice each.", "Set it to 1."),
        Finding("order-random", "error", 2, "At random.", "Run --fix.", fixable=True),
    ]
    assert report(findings).splitlines() == [
        "This installation",
        "  ok      It answers.",
        "Project 2",
        "  ERROR   At random.",
        "          -> Run --fix. [order-random]",
        "  warning Twice each.",
        "          -> Set it to 1. [overlap]",
        "  ok      A lock lasts.",
        "1 error, 1 warning; `doctor --fix` mends 1 of them.",
    ]
    assert report(findings[:2]).splitlines()[-1] == "All is well."


def test_the_webhook_must_bring_what_the_model_acts_on():
    assert TEACHING | POOL | {"PROJECT_UPDATED"} == doctor.EVENTS


def test_every_code_that_can_be_mended_is_one_that_is_found():
    source = Path(doctor.__file__).read_text() + Path(surroundings.__file__).read_text()
    for code in doctor._FIXES:
        assert source.count(f'"{code}"') >= 2, code


def test_each_place_of_images_is_tried_and_the_choice_is_the_same_each_time():
    urls = [f"/data/upload/1/{i}.png" for i in range(50)] + ["https://a.test/x/1.png"]
    urls += [f"http://b.test/{i}.png" for i in range(3)]
    chosen = doctor._sample(urls)
    assert chosen == doctor._sample(urls)
    assert len(chosen) == len(set(chosen)) == doctor.CHECKED_IMAGES
    assert {"/data/upload/1/0.png", "https://a.test/x/1.png"} <= set(chosen)
    assert "http://b.test/0.png" in chosen
    assert set(doctor._sample(urls[:2])) == set(urls[:2])
    assert doctor._sample([]) == []


def test_an_address_is_shown_without_its_password():
    assert doctor._shown("http://me:pw@b.test:1/x?key=1") == "http://b.test:1/x"
