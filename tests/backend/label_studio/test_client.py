"""The client when servers misbehave, against small real ones; tests/live has the real thing.

Each promise holds for our own calls and for those that label-studio-sdk makes through us.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import cast

import pytest
import trustme

from backend.errors import StudioRefused, StudioUnreachable
from backend.label_studio.bulk import StoredPrediction, Studio
from backend.label_studio.control import control_of
from tests.served import Served

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "head.payload.signature"


def jwt(number: int, lifetime_s: int = 300) -> str:
    claims = json.dumps({"iat": 1000, "exp": 1000 + lifetime_s, "n": number}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.x"


class Server(Served):
    """Answers every request by ``answer(request)``; ``seen`` holds (method, path, token)."""

    def __init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.seen.append((self.command, self.path, self.headers.get("Authorization")))
                server.answer(self)

            do_POST = do_DELETE = do_GET  # noqa: N815 - the names that the base calls

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        self.seen: list[tuple[str, str, str | None]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = reply({"release": "1.23.2"})
        super().__init__(Handler)


def reply(body: object, status: int = 200, **headers: str) -> Callable[..., None]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def redirect(location: str) -> Callable[..., None]:
    return reply(b"", 302, Location=location)


def drop(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


def half(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b'{"release"')
    request.close_connection = True


def in_turn(*answers: Callable[..., None]) -> Callable[..., None]:
    left = iter(answers)
    return lambda request: next(left)(request)


Ask = Callable[[Studio], object]

ASK: dict[str, Ask] = {
    "ours": lambda studio: studio.get("/api/version")["release"],
    "sdk": lambda studio: control_of(studio).versions.get().release,
}
ANNOTATE: dict[str, Ask] = {
    "ours": lambda studio: studio.annotate(1, [])["id"],
    "sdk": lambda studio: control_of(studio).annotations.create(1, result=[]).id,
}


@pytest.fixture(params=ASK.values(), ids=ASK.keys())
def ask(request: pytest.FixtureRequest) -> Ask:
    """A GET."""
    return cast(Ask, request.param)


@pytest.fixture(params=ANNOTATE.values(), ids=ANNOTATE.keys())
def annotate(request: pytest.FixtureRequest) -> Ask:
    """A POST."""
    return cast(Ask, request.param)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("backend.label_studio.client.RETRY_AFTER_S", (0.0, 0.0))
    made = Server()
    yield made
    made.close()


@pytest.fixture
def studio(server: Server) -> Iterator[Studio]:
    with Studio(server.url, LEGACY, timeout_s=5) as client:
        yield client


@pytest.mark.parametrize("trouble", [drop, half, reply({}, 502), reply({}, 503), reply({}, 504)])
def test_a_get_is_repeated_after_trouble_on_the_way(
    server: Server, studio: Studio, trouble: Callable[..., None], ask: Ask
):
    server.answer = in_turn(trouble, trouble, reply({"release": "1.23.2"}))
    assert ask(studio) == "1.23.2"
    assert len(server.seen) == 3


def test_a_get_is_not_repeated_for_ever(server: Server, studio: Studio, ask: Ask):
    server.answer = drop
    with pytest.raises(StudioUnreachable, match="LABEL_STUDIO_URL"):
        ask(studio)
    assert len(server.seen) == 3


@pytest.mark.parametrize("trouble", [drop, half])
def test_what_changes_something_is_never_repeated(
    server: Server, studio: Studio, trouble: Callable[..., None], annotate: Ask
):
    server.answer = trouble
    with pytest.raises(StudioUnreachable):
        annotate(studio)
    assert [method for method, _, _ in server.seen] == ["POST"]


def test_a_slow_answer_is_given_up_once(server: Server, ask: Ask):
    asked = threading.Event()
    done = threading.Event()

    def slow(request: BaseHTTPRequestHandler) -> None:
        asked.set()
        done.wait(10)
        request.close_connection = True

    server.answer = slow
    with (
        Studio(server.url, LEGACY, timeout_s=0.1) as studio,
        pytest.raises(StudioUnreachable, match=r"within 0.1 s \(ReadTimeout\)"),
    ):
        ask(studio)
    done.set()
    assert asked.is_set()
    assert len(server.seen) == 1


def test_a_redirect_names_the_address_to_set(server: Server, studio: Studio, ask: Ask):
    server.answer = reply(b"", 301, Location="https://labels.example/api/version")
    with pytest.raises(StudioRefused, match=r"https://labels.example.*LABEL_STUDIO_URL"):
        ask(studio)


def test_a_page_that_is_no_json_is_somebody_elses(server: Server, studio: Studio, ask: Ask):
    server.answer = reply(b"<html>Welcome to nginx</html>")
    with pytest.raises(StudioRefused, match="LABEL_STUDIO_URL"):
        ask(studio)


def test_a_refusal_without_json_says_how_much_came(server: Server, studio: Studio, ask: Ask):
    server.answer = reply(b"<html>", 413)
    with pytest.raises(StudioRefused, match=r"413 .*6 bytes") as refused:
        ask(studio)
    assert refused.value.studio_status == 413


def test_a_netrc_does_not_replace_the_token(
    server: Server, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    ask(studio)
    assert server.seen[0][2] == f"Token {LEGACY}"


def issue(server: Server, lifetime_s: int = 300) -> None:
    """Let ``server`` exchange personal tokens for access tokens numbered from 1."""
    lock = threading.Lock()
    issued = 0

    def answer(request: BaseHTTPRequestHandler) -> None:
        nonlocal issued
        if request.path != "/api/token/refresh/":
            reply({"release": "1.23.2"})(request)
            return
        with lock:
            issued += 1
            reply({"access": jwt(issued, lifetime_s)})(request)

    server.answer = answer


def test_a_personal_token_is_exchanged_once_for_all_threads(server: Server, ask: Ask):
    issue(server)
    with Studio(server.url, PERSONAL) as studio, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ask(studio), range(40)))
    exchanges = [path for _, path, _ in server.seen if path == "/api/token/refresh/"]
    assert len(exchanges) == 1
    used = {token for _, path, token in server.seen if path.startswith("/api/version")}
    assert used == {f"Bearer {jwt(1)}"}


def test_an_access_that_ends_within_a_minute_is_exchanged_again(server: Server, ask: Ask):
    issue(server, lifetime_s=59)
    with Studio(server.url, PERSONAL) as studio:
        ask(studio)
        ask(studio)
    used = [token for _, path, token in server.seen if path.startswith("/api/version")]
    assert used == [f"Bearer {jwt(1, 59)}", f"Bearer {jwt(2, 59)}"]


def test_a_401_is_asked_again_once_with_a_new_access(server: Server, annotate: Ask):
    server.answer = in_turn(
        reply({"access": jwt(1)}),
        reply({"detail": "expired"}, 401),
        reply({"access": jwt(2)}),
        reply({"id": 5}, 201),
    )
    with Studio(server.url, PERSONAL) as studio:
        assert annotate(studio) == 5
    assert server.seen[-1] == ("POST", "/api/tasks/1/annotations/", f"Bearer {jwt(2)}")


def test_a_second_401_is_the_answer(server: Server, ask: Ask):
    server.answer = in_turn(
        reply({"access": jwt(1)}),
        reply({"detail": "no"}, 401),
        reply({"access": jwt(2)}),
        reply({"detail": "no"}, 401),
    )
    with Studio(server.url, PERSONAL) as studio, pytest.raises(StudioRefused, match="our token"):
        ask(studio)


def test_a_legacy_token_is_not_tried_twice(server: Server, studio: Studio, ask: Ask):
    server.answer = reply({"detail": "Invalid token."}, 401)
    with pytest.raises(StudioRefused, match="Invalid token"):
        ask(studio)
    assert len(server.seen) == 1


def test_the_exchange_of_a_token_may_fail_to_reach_anybody(server: Server, ask: Ask):
    server.answer = drop
    with Studio(server.url, PERSONAL) as studio, pytest.raises(StudioUnreachable, match="refresh"):
        ask(studio)


def test_the_sdk_speaks_below_label_studios_own_path(server: Server):
    with Studio(f"{server.url}/tools/ls/", LEGACY, timeout_s=5) as studio:
        server.answer = reply([{"id": 4, "url": "http://b:9090", "project": 3}])
        [backend] = control_of(studio).ml.list(project=3)
    assert (backend.id, backend.url) == (4, "http://b:9090")
    assert [path for _, path, _ in server.seen] == ["/tools/ls/api/ml/?project=3"]


def test_the_sdk_may_take_as_long_as_a_call_is_given(server: Server, studio: Studio):
    done = threading.Event()

    def slow(request: BaseHTTPRequestHandler) -> None:
        done.wait(10)
        request.close_connection = True

    server.answer = slow
    with pytest.raises(StudioUnreachable, match=r"DELETE /api/projects/3/ within 1 s"):
        control_of(studio).projects.delete(3, request_options={"timeout_in_seconds": 1})
    done.set()


def test_a_refusal_through_the_sdk_hides_an_echoed_token(server: Server, studio: Studio):
    server.answer = reply({"detail": LEGACY}, 500)
    with pytest.raises(StudioRefused) as refused:
        control_of(studio).versions.get()
    assert LEGACY not in str(refused.value)
    assert refused.value.studio_status == 500


def test_projects_are_listed_to_the_last_page_and_no_further(server: Server, studio: Studio):
    server.answer = in_turn(
        reply({"count": 3, "next": "http://x/api/projects/?page=2", "results": [{"id": 1}]}),
        reply({"count": 3, "next": None, "results": [{"id": 2}, {"id": 3}]}),
    )
    assert [project.id for project in control_of(studio).all_projects()] == [1, 2, 3]
    assert len(server.seen) == 2


def test_predictions_are_posted_in_parts_of_bounded_size(
    server: Server, studio: Studio, monkeypatch: pytest.MonkeyPatch
):
    bodies: list[bytes] = []

    def call(method: str, path: str, *, content: bytes, timeout_s: float) -> dict[str, int]:
        bodies.append(content)
        return {"created": len(json.loads(content))}

    monkeypatch.setattr(studio, "call", call)
    monkeypatch.setattr("backend.label_studio.bulk.BYTES_PER_POST", 200)
    rows = [
        StoredPrediction(task=task, result=[], score=0.5, model_version="committee-v1.1")
        for task in range(1, 8)
    ]
    assert studio.import_predictions(1, iter(rows)) == 7
    assert [row for body in bodies for row in json.loads(body)] == rows
    assert len(bodies) == 4
    assert max(map(len, bodies)) <= 200
    assert studio.import_predictions(1, []) == 0


def test_predictions_that_a_proxy_finds_too_large_are_posted_in_halves(
    server: Server, studio: Studio
):
    stored: list[int] = []

    def small_bodies_only(request: BaseHTTPRequestHandler) -> None:
        if int(request.headers["Content-Length"]) > 200:
            reply(b"<html>413 Request Entity Too Large</html>", 413)(request)
            return
        stored.append(int(request.headers["Content-Length"]))
        reply({"created": 1}, 201)(request)

    server.answer = small_bodies_only
    rows = [
        StoredPrediction(task=task, result=[], score=0.5, model_version="committee-v1.1")
        for task in range(1, 5)
    ]
    assert studio.import_predictions(1, rows) == len(stored) == 2
    large = StoredPrediction(task=9, result=[{"id": "1" * 200}], score=0.5, model_version="v")
    with pytest.raises(StudioRefused):
        studio.import_predictions(1, [large])


def test_a_proxy_is_never_used_for_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.answer = reply({"release": "1.23.2"})
    with Studio(server.url, LEGACY, timeout_s=5) as studio:
        assert studio.get("/api/version") == {"release": "1.23.2"}
    with (
        Studio("http://studio.test", LEGACY, timeout_s=5) as studio,
        pytest.raises(StudioUnreachable, match=r"proxy http://127\.0\.0\.1:1 of http_proxy"),
    ):
        studio.get("/api/version")


def test_a_certificate_that_is_not_trusted_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    authority, file = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    said = r"not trusted here \(unable to get local issuer certificate\).*REQUESTS_CA_BUNDLE"
    with Studio(url, LEGACY, timeout_s=5) as studio, pytest.raises(StudioUnreachable, match=said):
        studio.get("/api/version")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    with Studio(url, LEGACY, timeout_s=5) as studio:
        assert studio.get("/api/version") == {"release": "1.23.2"}


@pytest.mark.parametrize(
    ("variable", "value", "url", "said"),
    [
        ("ALL_PROXY", "socks5://me:secret@127.0.0.1:1", "http://studio.test", "SOCKS.*be http or"),
        ("HTTP_PROXY", "http://me:secret@bad host:1", "http://studio.test", "of HTTP_PROXY.*'bad"),
        ("REQUESTS_CA_BUNDLE", "/none.pem", "https://127.0.0.1:1", r"path: /none\.pem.*CA_BUNDLE"),
        ("NO_PROXY", "*", "http://studio..test", "'studio..test', label empty.*STUDIO_URL"),
    ],
)
def test_what_is_wrong_with_our_own_side_is_a_sentence(
    variable: str, value: str, url: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, value)
    for token in (LEGACY, "a.b.c"):  # the second is exchanged first
        with (
            Studio(url, token, timeout_s=5) as studio,
            pytest.raises(StudioUnreachable, match=f"cannot be asked.*{said}") as refused,
        ):
            studio.get("/api/version")
        assert "secret" not in str(refused.value)


def test_https_to_a_server_that_speaks_http_is_said(server: Server):
    with (
        Studio(server.url.replace("http:", "https:"), LEGACY, timeout_s=5) as studio,
        pytest.raises(StudioUnreachable, match="does it speak https there"),
    ):
        studio.get("/api/version")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply(b"<html><title>413 Request Entity Too Large</title>", 413), "client_max_body_size"),
        (reply(b"<html><title>404 Not Found</title>", 404), "lack the path"),
        (reply(b"<html><title> Sign in </title>"), "JSON, 'Sign in'.*login"),
        (reply(b"<html><title>Sign in</title>", 401), "'Sign in', not as Label.*login of its own"),
        (reply(b"<html><title>Sign in</title>", 403), "'Sign in', not as Label.*login of its own"),
        (reply(b"", 407), "wants a user and a password"),
        (redirect("https://sso.test/login?to=secret"), "to https://sso.test/login: .*login page"),
        (
            redirect("https://lab.test/ls/api/projects/1/"),
            r"set LABEL_STUDIO_URL to https://lab\.test/ls\.$",
        ),
    ],
)
def test_a_proxys_answers_are_told_from_label_studios(
    server: Server, studio: Studio, answer: Callable[..., None], said: str
):
    server.answer = answer
    with pytest.raises(StudioRefused, match=said):
        studio.get("/api/projects/1/")


def test_each_call_that_failed_is_told_once(server: Server) -> None:
    told: list[str] = []
    server.answer = reply({"detail": "no"}, 403)
    with Studio(server.url, "a-token", timeout_s=5, on_error=told.append) as studio:
        with pytest.raises(StudioRefused):
            studio.get("/api/projects/")
        with pytest.raises(StudioRefused):
            studio.open_stream("/data/upload/x.png")
        assert told == ["403", "403"]
    with Studio("http://127.0.0.1:1", "a-token", on_error=told.append) as away:
        with pytest.raises(StudioUnreachable):
            away.send("POST", "/api/projects/", {})
        assert told[2:] == ["unreachable"]
