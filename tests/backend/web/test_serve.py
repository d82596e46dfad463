"""The web's processes: killed, stopped, unable to start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil
import pytest
import requests

from backend.web.serve import PROCESSES
from backend.web.server import THREADS
from tests.backend.web.web_process import EVENT, PATIENCE_S, Web, answer_of
from tests.limits import scaled, wait_until
from tests.live.harness.servers import ROOT, Process, free_port


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One for all tests; the last one kills it."""
    started = Web(tmp_path_factory.mktemp("web"))
    yield started
    started.process.stop()


def serving(web: Web) -> list[psutil.Process]:
    return psutil.Process(web.process.pid).children()


def ended(processes: list[psutil.Process]) -> bool:
    return not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
    )


def can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_killed_process_is_replaced_and_the_other_serves_meanwhile(web: Web) -> None:
    before = serving(web)
    assert len(before) == PROCESSES
    for victim in before:
        victim.kill()
        assert web.post("/webhook", EVENT).status_code == 201
        # A killed child is one until its parent has seen that it ended.
        wait_until(
            lambda gone=victim: gone not in (now := serving(web)) and len(now) == PROCESSES,
            PATIENCE_S,
            "another process",
        )
    assert not {child.pid for child in serving(web)} & {child.pid for child in before}


def webhooks(web: Web) -> int:
    """How many /metrics tells of, whichever process answers."""
    told = requests.get(f"{web.url}/metrics", auth=web.auth, timeout=scaled(PATIENCE_S)).text
    found = re.search(r'request_seconds_count{outcome="ok",route="/webhook"} (\d+)', told)
    assert found is not None, told
    return int(found[1])


def test_each_process_tells_the_latencies_of_all_of_them_and_of_those_before(web: Web) -> None:
    before = webhooks(web)
    for _ in range(6):
        web.post("/webhook", EVENT)
    assert {webhooks(web) for _ in range(6)} == {before + 6}
    for victim in serving(web):
        victim.kill()
    assert webhooks(web) == before + 6


def test_all_processes_killed_at_once_are_replaced(web: Web) -> None:
    for victim in serving(web):
        victim.kill()
    assert web.healthy()  # it waits in the parent's socket
    assert web.post("/webhook", EVENT).status_code == 201


STAND_IN = """
import sys
from types import SimpleNamespace
from backend.settings import load_settings
from backend.web import serve, server

def serve_instead_of_ours(build_app):
    sys.modules["backend.web.app"] = SimpleNamespace(
        build_app=lambda settings, latencies: build_app(settings),
        body_limit=lambda settings: lambda path, sent: 0
    )
    serve.serve(load_settings())
"""
"""Python that serves an app of the test's own. Ours is not imported: that takes seconds."""

SLOW_WEB = f"""{STAND_IN}
import threading

def slow(environ, start_response):
    print("at work", flush=True)
    threading.Event().wait(1)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]

serve_instead_of_ours(lambda settings: slow)
"""


LARGE_WEB = f"""{STAND_IN}
def large(environ, start_response):
    start_response("200 OK", [("Content-Length", str(2 ** 23))])
    print("answered", flush=True)
    return [b"x" * 2 ** 23]

# A busy machine does not send so much within 2 s.
server.SEND_WITHIN_S, serve.STOP_S = 60, 90
serve_instead_of_ours(lambda settings: large)
"""


HANGING_WEB = f"""{STAND_IN}
def empty(environ, start_response):
    start_response("204 No Content", [])
    return []

serve.HANGS_S = 3
serve_instead_of_ours(lambda settings: empty)
"""


BROKEN_WEB = f"""{STAND_IN}
serve_instead_of_ours(lambda settings: 1 / 0)
"""


def test_a_signal_cuts_no_answer_off(tmp_path: Path) -> None:
    with web_of(LARGE_WEB, tmp_path) as (web, port):
        with wait_until(lambda: connected(port), PATIENCE_S, "the web") as link:
            link.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            wait_until(lambda: "answered" in web.tail(), PATIENCE_S, "the answer")
            os.kill(web.pid, signal.SIGTERM)
            assert len(answer_of(link)[2]) == 2**23
        assert web.popen.wait(scaled(PATIENCE_S)) == 0


def test_a_process_that_hangs_is_replaced(tmp_path: Path) -> None:
    with web_of(HANGING_WEB, tmp_path) as (web, port):
        wait_until(lambda: connected(port), PATIENCE_S, "the web").close()
        hung = wait_until(lambda: psutil.Process(web.pid).children(), PATIENCE_S, "a process")[0]
        hung.suspend()
        wait_until(lambda: ended([hung]), PATIENCE_S, "the end of what hangs")
        wait_until(
            lambda: len(psutil.Process(web.pid).children()) == PROCESSES, PATIENCE_S, "another"
        )
        assert "has hung for" in web.tail()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_once_open_requests_are_answered(tmp_path: Path, number: int) -> None:
    with web_of(SLOW_WEB, tmp_path) as (web, port):
        with wait_until(lambda: connected(port), PATIENCE_S, "the web") as link:
            link.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            wait_until(lambda: "at work" in web.tail(), PATIENCE_S, "the request to be worked on")
            children = psutil.Process(web.pid).children()
            os.kill(web.pid, number)
            assert answer_of(link)[2] == b"done"
        assert web.popen.wait(scaled(PATIENCE_S)) == 0
        assert ended(children)
        assert can_be_bound(port)


def test_what_waits_for_a_thread_at_a_signal_is_answered_and_nothing_new_is_taken(
    tmp_path: Path,
) -> None:
    """waitress by itself drops it, and leaves new connections waiting."""
    asked = PROCESSES * THREADS + 4
    with web_of(SLOW_WEB, tmp_path) as (web, port):
        links = [wait_until(lambda: connected(port), PATIENCE_S, "the web")]
        links += [link for _ in range(asked - 1) if (link := connected(port))]
        for link in links:
            link.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        wait_until(lambda: web.tail().count("at work") >= THREADS, PATIENCE_S, "busy threads")
        os.kill(web.pid, signal.SIGTERM)
        wait_until(lambda: refuses(port), PATIENCE_S, "new connections to be refused")
        assert [answer_of(link)[2] for link in links] == [b"done"] * asked
        for link in links:
            link.close()
        assert web.popen.wait(scaled(PATIENCE_S)) == 0


@contextmanager
def web_of(code: str, folder: Path) -> Iterator[tuple[Process, int]]:
    """A web that this code serves, and its port."""
    port = free_port()
    command = [sys.executable, "-c", code]
    web = Process(command, folder / "web.log", settings_of(port, folder), cwd=ROOT)
    try:
        yield web, port
    finally:
        web.stop()


def connected(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=scaled(PATIENCE_S))
    except ConnectionRefusedError:
        return None


def refuses(port: int) -> bool:
    with connected(port) or nullcontext() as link:
        return link is None


def settings_of(port: int, data_dir: Path) -> dict[str, str]:
    return {
        "DATA_DIR": str(data_dir),
        "PORT": str(port),
        "LABEL_STUDIO_URL": "http://studio.test",
        "LABEL_STUDIO_API_KEY": "0" * 40,
    }


def run(*arguments: str, port: int, data_dir: Path) -> subprocess.CompletedProcess[str]:
    """Python with these arguments and the settings of a web, to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **settings_of(port, data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_taken_port_is_named_and_what_to_do(web: Web, tmp_path: Path) -> None:
    done = run("-m", "backend", "serve", port=web.port, data_dir=tmp_path / "other")
    assert done.returncode == 1
    assert f"cannot listen on PORT {web.port} of HOST 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert web.healthy()


def test_an_app_that_cannot_be_built_ends_the_web_instead_of_a_loop(tmp_path: Path) -> None:
    done = run("-c", BROKEN_WEB, port=free_port(), data_dir=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "The web cannot start; the lines above say why." in done.stderr


def test_nothing_outlives_a_killed_parent_and_its_port_is_free(web: Web) -> None:
    """The last test: the others need the web that this one kills."""
    children = serving(web)
    web.process.kill()
    wait_until(lambda: ended(children), PATIENCE_S, "the end of the processes")
    wait_until(lambda: can_be_bound(web.port), PATIENCE_S, "the port")
