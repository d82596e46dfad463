"""The real web, as `serve` starts it, against what no client of good faith would send.

Most requests are written onto the socket by hand: no HTTP library would send them.
"""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from backend.ledger import Ledger
from backend.web.app import BODY_LIMITS, MB
from backend.web.serve import PROCESSES
from backend.web.server import HEAD_BYTES, THREADS
from tests.backend.web import impatient
from tests.backend.web.web_process import (
    BASIC,
    EVENT,
    LOGIN,
    PASSWORD,
    PATIENCE_S,
    PROJECT,
    Web,
    answer_of,
)
from tests.live.harness.servers import ValkeyServer, files_that_may_not_grow, start_valkey


def refused(answer: tuple[int, dict[str, str], bytes], *statuses: int) -> str:
    """The sentence of a refusal, which is JSON and shows nothing of our insides."""
    status, headers, body = answer
    assert status in statuses, body
    assert headers["content-type"] == "application/json"
    error = json.loads(body)
    assert list(error) == ["error"]
    sentence: str = error["error"]
    assert sentence.endswith((".", "?"))
    assert "Traceback" not in sentence
    return sentence


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One of these tests' own, since one of them stops it."""
    server = start_valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A folder of 8 MB on a file system of its own; None where only root may mount one."""
    folder = tmp_path_factory.mktemp("disk")
    options = ("-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs")
    if (
        sys.platform != "linux"
        or subprocess.run(["mount", *options, folder], check=False).returncode
    ):
        yield None
        return
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def web(
    tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer, small_disk: Path | None
) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    data = (small_disk or folder) / "data"
    url = f"sqlite:///{data}/ledger.sqlite3"
    started = Web(folder, redis_url=valkey.url, data_dir=data, ledger_url=url)
    yield started
    started.process.stop()
    log = started.process.log.read_text(errors="replace")
    assert "Traceback" not in log, log
    assert PASSWORD not in log
    assert BASIC not in log


def head(method: str = "POST", path: str = "/webhook", *lines: str, login: str = LOGIN) -> bytes:
    start = f"{method} {path} HTTP/1.1\r\nHost: web\r\nContent-Type: application/json\r\n{login}"
    return "".join([start, *(f"{x}\r\n" for x in lines), "\r\n"]).encode("latin-1")


# ---- what is sent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS on a plain port
        (b"get /health HTTP/1.1\r\nHost: web\r\n\r\n", 400),
        (b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: web\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: web\r\nno colon\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: web\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: web\r\n" + b"X: y\r\n" * HEAD_BYTES, 431),
        (head("POST", "/webhook", "Content-Length: x"), 400),
        (head("POST", "/webhook", "Content-Length: -1"), 400),
        (head("POST", "/webhook", "Content-Length: 1", "Content-Length: 2"), 400),
        (head("POST", "/webhook", "Content-Length: ²"), 400),
        (head("POST", "/webhook", "Content-Length: " + "9" * 5000), 400),
        (head("POST", "/webhook", "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
        (head("POST", "/webhook", "Transfer-Encoding: gzip"), 501),
        (head("POST", "/webhook", "Transfer-Encoding: braille"), 501),
    ],
)
def test_what_is_not_http_is_refused_in_json(web: Web, sent: bytes, status: int) -> None:
    refused(web.ask(sent), status)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/9.9\r\nHost: web\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: web\r\n folded: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: web\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: web\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: web\r\nExpect: miracles\r\n\r\n",
    ],
)
def test_odd_requests_that_are_understood_are_answered(web: Web, sent: bytes) -> None:
    assert web.ask(sent)[0] == 200


@pytest.mark.parametrize("path", [b"/\x00", b"/" + b"a" * 5000])
def test_an_odd_path_needs_the_password_as_any_other(web: Web, path: bytes) -> None:
    refused(web.ask(b"GET " + path + b" HTTP/1.1\r\nHost: web\r\n\r\n"), 401)


@pytest.mark.parametrize("chunks", [b"x\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"1;\x00=\r\n"])
def test_malformed_chunks_are_refused(web: Web, chunks: bytes) -> None:
    refused(web.ask(head("POST", "/webhook", "Transfer-Encoding: chunked") + chunks), 400)


@pytest.mark.parametrize("chunks", [b"", b"5\r\nabc\r\n", b"f" * 9000])
def test_a_client_that_breaks_off_in_the_body_is_hung_up_on(web: Web, chunks: bytes) -> None:
    with web.connect() as link:
        link.sendall(head("POST", "/webhook", "Transfer-Encoding: chunked") + chunks)
        link.shutdown(socket.SHUT_WR)
        assert link.recv(1) == b""


def test_a_body_that_waits_to_be_asked_for_is_asked_for(web: Web) -> None:
    sizes = ("Expect: 100-continue", f"Content-Length: {len(EVENT)}")
    with web.connect() as link:
        link.sendall(head("POST", "/webhook", *sizes))
        assert link.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(EVENT)
        assert answer_of(link)[0] == 201
    for login in ("", "Authorization: Basic bm86bm8=\r\n"):
        refused(web.ask(head("POST", "/webhook", *sizes, login=login)), 401, 429)


def test_a_login_of_other_than_ascii_is_a_wrong_login(web: Web) -> None:
    wrong = "Authorization: Basic \xff\r\n"
    refused(web.ask(head("GET", "/versions", login=wrong)), 401, 429)


def test_well_formed_chunks_are_read(web: Web) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in EVENT) + b"0\r\n\r\n"
    answer = web.ask(head("POST", "/webhook", "Transfer-Encoding: chunked") + chunks)
    assert answer[0] == 201


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"project":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"action": NaN}',
        b'{"action": "\\ud800"}',
        b"\x00\x00\x00",
        b'{"action": "caf\xe9"}',  # Latin-1
        '{"action": "x"}'.encode("utf-16"),
        b"<html></html>",
        b'{"action": 1e999, "project": "1.1"}',
    ],
)
@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_a_body_of_the_wrong_form_is_refused(web: Web, path: str, body: bytes) -> None:
    answer = web.post(path, body)
    refused((answer.status_code, dict(_lower(answer)), answer.content), 400)


def _lower(answer: requests.Response) -> Iterator[tuple[str, str]]:
    return ((name.lower(), value) for name, value in answer.headers.items())


WRONG = (
    None,
    True,
    -1,
    1.5,
    2**64,
    "x",
    "\x00",
    [],
    [[]],
    {},
    {"id": "1"},
    {"id": True},
    "1.1\x00",
)


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/setup", "project"),
        ("/setup", "schema"),
        ("/predict", "project"),
        ("/predict", "tasks"),
        ("/webhook", "project"),
        ("/webhook", "action"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_or_ignored(
    web: Web, path: str, field: str, value: Any
) -> None:
    sound = {"project": PROJECT, "schema": "<View/>", "tasks": [], "action": "START_TRAINING"}
    answer = web.post(path, json.dumps({**sound, field: value}).encode())
    if (path, field) == ("/webhook", "action") and isinstance(value, str):
        assert answer.status_code == 201
        assert "ignored" in answer.json()
    elif (path, field, value) == ("/predict", "tasks", []):
        assert answer.json() == {"results": []}
    else:
        refused((answer.status_code, dict(_lower(answer)), answer.content), 400)


def test_json_is_read_as_utf_8_whatever_its_type_says_of_letters(web: Web) -> None:
    kind = {"Content-Type": "application/json; charset=latin-1"}
    assert web.post("/webhook", EVENT, **kind).status_code == 201
    assert web.post("/webhook", b"\xef\xbb\xbf" + EVENT).status_code == 201


def test_an_encoded_body_is_refused_as_such(web: Web) -> None:
    said = web.post("/webhook", EVENT, **{"Content-Encoding": "gzip"})
    assert "Content-Encoding" in refused((said.status_code, dict(_lower(said)), said.content), 415)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_another_method_is_told_the_right_one(web: Web, method: str) -> None:
    answer = web.ask(head(method, "/predict"))
    refused(answer, 405)
    assert answer[1]["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    [
        *("/x", "/health/", "//versions/", "/%2e%2e/etc/passwd", "/%zz%", "/%00", "/%ff%fe"),
        *("/static/x", "http://other.test/x", "/health%2f..%2fversions"),
    ],
)
def test_an_unknown_path_is_refused(web: Web, path: str) -> None:
    refused(web.ask(head("GET", path)), 404)
    refused(web.ask(head("GET", path, login="")), 401)


def test_a_head_has_no_body(web: Web) -> None:
    with web.connect() as link:
        link.sendall(head("HEAD", "/health", "Connection: close"))
        sent = b"".join(iter(lambda: link.recv(4096), b""))
    assert sent.startswith(b"HTTP/1.1 200")
    assert sent.endswith(b"\r\n\r\n")


def test_headers_cannot_move_a_request_to_another_path(web: Web) -> None:
    answer = web.ask(head("GET", "/health", "SCRIPT_NAME: /health", login=""))
    assert answer[0] == 200
    refused(web.ask(head("GET", "/versions", "PATH_INFO: /health", login="")), 401)


# ---- how much and how long -----------------------------------------------------------------


@pytest.mark.parametrize(("path", "limit"), BODY_LIMITS.items())
def test_a_body_that_says_it_is_too_large_is_not_waited_for(
    web: Web, path: str, limit: int
) -> None:
    sentence = refused(web.ask(head("POST", path, f"Content-Length: {limit + 1}")), 413)
    assert f"{limit // MB} MB" in sentence


def test_a_body_in_chunks_is_cut_off_at_the_same_size(web: Web) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with web.connect() as link:
        link.sendall(head("POST", "/setup", "Transfer-Encoding: chunked"))
        sent = 0
        try:
            while sent < 16 * BODY_LIMITS["/setup"]:
                link.sendall(chunk)
                sent += len(chunk)
        except ConnectionError:
            pass  # it hung up on us
        assert sent < 16 * BODY_LIMITS["/setup"]


def test_a_body_is_not_read_before_the_password(web: Web) -> None:
    for login in ("", "Authorization: Basic bm86bm8=\r\n"):
        for framing in (f"Content-Length: {BODY_LIMITS['/predict']}", "Transfer-Encoding: chunked"):
            for path in ("/predict", "/webhook", "/nothing"):
                answer = web.ask(head("POST", path, framing, login=login))
                refused(answer, 401, 429)
    refused(
        web.ask(head("POST", "/health", f"Content-Length: {BODY_LIMITS['/predict']}", login="")),
        405,
    )
    with web.connect() as link:  # the open path reads none either, and hangs up
        link.sendall(head("GET", "/health", "Transfer-Encoding: chunked", login=""))
        assert answer_of(link)[0] == 200
        assert link.recv(1) == b""


def test_without_the_password_a_large_body_costs_no_memory_and_is_hung_up_on(web: Web) -> None:
    with web.connect() as link:
        link.sendall(
            head("POST", "/predict", f"Content-Length: {BODY_LIMITS['/predict']}", login="")
        )
        with pytest.raises(ConnectionError):  # noqa: PT012 - many sends until one fails
            for _ in range(BODY_LIMITS["/predict"] // MB):
                link.sendall(b" " * MB)


def test_clients_that_never_end_their_head_take_no_thread(web: Web) -> None:
    with ExitStack() as links:
        slow = [links.enter_context(web.connect()) for _ in range(4 * PROCESSES * THREADS)]
        for number, link in enumerate(slow):
            link.sendall(b"GET /health HTTP/1.1\r\nX-Slow: "[: 1 + number % 30])
        assert web.healthy()
        assert web.post("/webhook", EVENT).status_code == 201
        for link in slow:
            assert link.recv(1) == b""


def test_a_head_that_comes_byte_by_byte_is_understood_or_cut_off(web: Web) -> None:
    with web.connect() as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /health HTTP/1.1\r\nHost: web\r\n\r\n":
            link.sendall(bytes([byte]))
        assert answer_of(link)[0] == 200


def test_bytes_that_keep_coming_do_not_prolong_the_head(web: Web) -> None:
    with web.connect() as link:
        link.settimeout(0.1)
        link.sendall(b"GET /health HTTP/1.1\r\nX: ")
        began = time.monotonic()
        answer = b""
        while not answer and time.monotonic() - began < PATIENCE_S:
            link.sendall(b"x")
            try:
                answer = link.recv(64)
            except TimeoutError:
                continue
        assert answer.split()[1] == b"408"


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_never_ends_is_cut_off_in_time(web: Web, framing: str) -> None:
    with web.connect() as link:
        link.settimeout(0.1)
        link.sendall(head("POST", "/webhook", framing))
        began = time.monotonic()
        answer = b""
        while not answer and time.monotonic() - began < PATIENCE_S:
            link.sendall(b"1\r\nx\r\n" if "chunked" in framing else b" ")
            try:
                answer = link.recv(64)
            except TimeoutError:
                continue
        assert answer.split()[1] == b"408"
        assert time.monotonic() - began > impatient.BODY_WITHIN_S / 2


def test_clients_that_do_not_hang_up_stop_nobody(web: Web) -> None:
    with ExitStack() as links:
        rude = [links.enter_context(web.connect()) for _ in range(2 * PATIENCE_S)]
        for link in rude:
            link.sendall(head("GET", "/health", "Connection: close", login=""))
        assert all(answer_of(link)[0] == 200 for link in rude)
        assert web.healthy()


def test_clients_that_send_on_and_never_read_take_no_thread(web: Web) -> None:
    """Enough answers to fill every buffer between us, to more clients than there are threads."""
    request = head("GET", "/health", login="")
    ends: list[type[OSError] | None] = []

    def send_on(link: socket.socket) -> None:
        try:
            for _ in range(BODY_LIMITS["/predict"] // MB):
                link.sendall(request * 25_000)
        except OSError as error:
            ends.append(type(error))
        else:
            ends.append(None)

    with ExitStack() as links:
        senders = []
        for _ in range(PROCESSES * THREADS + 4):
            link = links.enter_context(socket.socket())
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            link.settimeout(PATIENCE_S / 2)
            link.connect(("127.0.0.1", web.port))
            senders.append(threading.Thread(target=send_on, args=(link,)))
        for sender in senders:
            sender.start()
        assert web.healthy()
        for sender in senders:
            sender.join()
    assert len(ends) == len(senders)
    assert set(ends) <= {BrokenPipeError, ConnectionResetError}


def test_a_client_that_leaves_in_the_middle_harms_nobody(web: Web) -> None:
    for sent in (
        b"",
        b"GET /heal",
        head("POST", "/webhook", "Content-Length: 1000") + b"{",
        head("POST", "/webhook", "Transfer-Encoding: chunked") + b"ff\r\n{",
    ):
        for _ in range(2 * THREADS):
            with web.connect() as link:
                link.sendall(sent)
                # Reset rather than closed, as a machine that loses power does.
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert web.healthy()


def test_requests_may_follow_each_other_on_one_connection(web: Web) -> None:
    event = head("POST", "/webhook", f"Content-Length: {len(EVENT)}") + EVENT
    wrong = head("GET", "/predict", "Content-Length: 2") + b"{}"
    with web.connect() as link:
        link.sendall(event + wrong + head("GET", "/health", login=""))
        with link.makefile("rb") as stream:
            statuses = []
            for _ in range(3):
                statuses.append(int(stream.readline().split()[1]))
                length = 0
                while line := stream.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
    assert statuses == [201, 405, 200]


def test_many_webhooks_at_once_are_all_kept(web: Web) -> None:
    before = events_kept(web)
    answers: list[int] = []

    def send() -> None:
        with requests.Session() as session:
            session.auth = web.auth
            session.headers["Content-Type"] = "application/json"
            for _ in range(25):
                answer = session.post(f"{web.url}/webhook", data=EVENT, timeout=PATIENCE_S)
                answers.append(answer.status_code)

    senders = [threading.Thread(target=send) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert len(answers) == 8 * 25
    assert set(answers) <= {201, 503}
    assert events_kept(web) - before == answers.count(201)


# ---- what breaks beneath it ----------------------------------------------------------------


def events_kept(web: Web) -> int:
    """Events of all projects that the ledger holds, read by a process of another time."""
    ledger = Ledger(web.settings.ledger_url)
    kept = sum(len(ledger.events.pending(project.id)) for project in ledger.projects.all())
    ledger.close()
    return kept


def refused_webhook(web: Web) -> str | None:
    """The sentence of a webhook's 503; None if it was kept."""
    answer = web.post("/webhook", EVENT)
    if answer.status_code == 201:
        return None
    return refused((answer.status_code, dict(_lower(answer)), answer.content), 503)


def test_a_locked_ledger_is_a_503_with_a_sentence_and_nothing_is_kept(web: Web) -> None:
    assert refused_webhook(web) is None
    kept = events_kept(web)
    with closing(sqlite3.connect(web.settings.ledger_path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in str(refused_webhook(web))
        assert web.healthy()
        other.execute("ROLLBACK")
    assert events_kept(web) == kept
    assert refused_webhook(web) is None
    assert events_kept(web) == kept + 1


def fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def test_a_full_disk_is_a_503_with_a_sentence_until_there_is_room_again(
    web: Web, small_disk: Path | None
) -> None:
    if small_disk is None:
        pytest.skip("only root may mount a small disk here")
    assert refused_webhook(web) is None
    before = events_kept(web)
    filler = small_disk / "filler"
    fill(filler)
    kept, sentence = 0, None
    while sentence is None and kept < 2000:
        sentence = refused_webhook(web)
        kept += sentence is None
    assert "database or disk is full" in str(sentence)
    assert web.healthy()
    filler.unlink()
    assert refused_webhook(web) is None
    assert events_kept(web) == before + kept + 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of a running process")
def test_a_ledger_that_may_not_grow_is_a_503_with_a_sentence_until_it_may(web: Web) -> None:
    """The same without root: by a limit, as a quota would set it."""
    assert refused_webhook(web) is None
    kept = events_kept(web)
    workers = [child.pid for child in psutil.Process(web.process.pid).children()]
    with files_that_may_not_grow(*workers):
        assert "disk I/O error" in str(refused_webhook(web))
        assert web.healthy()
    assert refused_webhook(web) is None
    assert events_kept(web) == kept + 1


def test_webhooks_are_kept_while_redis_is_down(web: Web, valkey: ValkeyServer) -> None:
    """The web never speaks to it: the workers' clock queues what the ledger holds."""
    kept = events_kept(web)
    assert refused_webhook(web) is None
    valkey.stop()
    assert refused_webhook(web) is None
    assert web.healthy()
    assert events_kept(web) == kept + 2
