"""Where images may come from, what is sent there, and how much is read: against real sockets."""

from __future__ import annotations

import base64
import itertools
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from backend.errors import ImageRefused, StudioRefused, StudioUnreachable
from backend.label_studio.bulk import Studio
from backend.label_studio.images import (
    MOST_CHARACTERS,
    MOST_ESCAPES,
    ImageFetcher,
    own_name,
    resolved,
)
from tests.backend.host import PIXELS, Host, body, redirect, status
from tests.backend.workplaces import TOKEN


@pytest.mark.parametrize(
    "path",
    [
        "/data/upload/1/ab12-cell.png",
        "/data/local-files/?d=folder/cell%201.png",
        "/tasks/7/resolve/?fileuri=czM6Ly9idWNrZXQvY2VsbC5wbmc=",
        "/tasks/7/presign/?fileuri=x",
        "/projects/2/resolve/?fileuri=x",
        "/storage-data/uploaded/?filepath=upload/1/cell.png",
    ],
)
def test_a_path_of_label_studio_is_fetched_with_the_token(
    label_studio: Host, studio: Studio, path: str
):
    label_studio.pages[path.split("?")[0]] = body()
    assert ImageFetcher(studio).fetch(path) == PIXELS
    assert label_studio.seen[0][0] == path
    assert label_studio.authorizations == [f"Token {TOKEN}"]


def test_label_studios_own_absolute_address_counts_as_a_path(label_studio: Host, studio: Studio):
    label_studio.pages["/data/upload/1/cell.png"] = body()
    assert ImageFetcher(studio).fetch(f"{label_studio.url}/data/upload/1/cell.png") == PIXELS
    assert label_studio.authorizations == [f"Token {TOKEN}"]


def test_a_name_with_spaces_and_umlauts_arrives_encoded(label_studio: Host, studio: Studio):
    label_studio.pages["/data/upload/1/Ersch%C3%B6pft%201.png"] = body()
    assert ImageFetcher(studio).fetch("/data/upload/1/Erschöpft 1.png") == PIXELS


def test_label_studio_behind_a_path_is_found_with_and_without_it(label_studio: Host):
    label_studio.pages["/tools/ls/data/upload/1/cell.png"] = body()
    with Studio(f"{label_studio.url}/tools/ls/", TOKEN) as studio:
        fetcher = ImageFetcher(studio)
        assert fetcher.fetch("/data/upload/1/cell.png") == PIXELS
        assert fetcher.fetch("/tools/ls/data/upload/1/cell.png") == PIXELS


@pytest.mark.parametrize(
    "path",
    [
        "/api/projects/1/next/",
        "/data/../api/current-user/token",
        "/data/upload/../../api/token",
        "/data/upload/%2e%2e/%2e%2e/api/token",
        "/data/upload\\..\\x",
        "/user/logout/",
        "%2Fdata/upload/1/cell.png",
        "data/upload/1/cell.png",
        "cell.png",
        "",
    ],
)
def test_other_paths_of_label_studio_are_refused_unasked(
    label_studio: Host, studio: Studio, path: str
):
    with pytest.raises(ImageRefused, match="no place where Label Studio keeps images"):
        ImageFetcher(studio).fetch(path)
    assert label_studio.seen == []


@pytest.mark.parametrize(
    "url", ["s3://bucket/cell.png", "file:///etc/passwd", "ftp://x/y", "//127.0.0.1/x", "gs://b/c"]
)
def test_what_is_not_http_is_refused(studio: Studio, url: str):
    with pytest.raises(ImageRefused, match="source storage"):
        ImageFetcher(studio).fetch(url)


def test_another_host_is_refused_unasked_and_the_sentence_says_what_to_add(
    elsewhere: Host, studio: Studio
):
    with pytest.raises(ImageRefused, match=rf"{elsewhere.name}.*ALLOWED_IMAGE_HOSTS"):
        ImageFetcher(studio).fetch(f"{elsewhere.url}/cell.png")
    assert elsewhere.seen == []


def test_an_allowed_host_is_asked_without_the_token(elsewhere: Host, studio: Studio):
    elsewhere.pages["/cell.png"] = body()
    fetcher = ImageFetcher(studio, (elsewhere.name,))
    assert fetcher.fetch(f"{elsewhere.url}/cell.png?v=1") == PIXELS
    assert elsewhere.authorizations == [None]


def test_a_netrc_gives_nothing_away(
    elsewhere: Host, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    elsewhere.pages["/cell.png"] = body()
    ImageFetcher(studio, (elsewhere.name,)).fetch(f"{elsewhere.url}/cell.png")
    assert elsewhere.authorizations == [None]


def test_an_allowed_name_is_for_the_ordinary_port_only(elsewhere: Host, studio: Studio):
    with pytest.raises(ImageRefused, match="not allowed"):
        ImageFetcher(studio, ("127.0.0.1",)).fetch(f"{elsewhere.url}/cell.png")
    assert elsewhere.seen == []


def test_an_allowed_port_is_for_that_name_only(elsewhere: Host, studio: Studio):
    elsewhere.pages["/cell.png"] = body()
    with pytest.raises(ImageRefused, match="not allowed"):
        ImageFetcher(studio, (elsewhere.name,)).fetch(f"http://localhost:{elsewhere.port}/cell.png")
    allowed = ImageFetcher(studio, (f"LocalHost:{elsewhere.port}",))
    assert allowed.fetch(f"http://LOCALHOST:{elsewhere.port}/cell.png") == PIXELS


def test_a_subdomain_of_an_allowed_name_is_another_host(studio: Studio):
    fetcher = ImageFetcher(studio, ("example.org",))
    for url in ("http://evil.example.org/x", "http://example.org.evil.net/x"):
        with pytest.raises(ImageRefused, match="not allowed"):
            fetcher.fetch(url)


@pytest.mark.parametrize(
    "shape",
    [
        "http://{name}@evil.example/x",
        "http://user:secret@{name}/x",
        "http://{name}\\@evil.example/x",
        "http://{name}:notaport/x",
        "http:///x",
        "http://{name}/x\r\nX-Header: 1",
        "http://[::1/x",
    ],
)
def test_misleading_addresses_are_refused(elsewhere: Host, studio: Studio, shape: str):
    with pytest.raises(ImageRefused) as refused:
        ImageFetcher(studio, (elsewhere.name,)).fetch(shape.format(name=elsewhere.name))
    assert "secret" not in str(refused.value)
    assert elsewhere.seen == []


def test_label_studio_may_redirect_to_an_allowed_host_which_gets_no_token(
    label_studio: Host, elsewhere: Host, studio: Studio
):
    label_studio.pages["/tasks/7/resolve/"] = redirect(f"{elsewhere.url}/bucket/cell.png?sig=abc")
    elsewhere.pages["/bucket/cell.png"] = body()
    fetcher = ImageFetcher(studio, (elsewhere.name,))
    assert fetcher.fetch("/tasks/7/resolve/?fileuri=x") == PIXELS
    assert elsewhere.authorizations == [None]


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused_unasked(
    label_studio: Host, elsewhere: Host, studio: Studio
):
    label_studio.pages["/tasks/7/resolve/"] = redirect(f"{elsewhere.url}/x")
    with pytest.raises(ImageRefused, match="ALLOWED_IMAGE_HOSTS"):
        ImageFetcher(studio).fetch("/tasks/7/resolve/?fileuri=x")
    assert elsewhere.seen == []


def test_an_allowed_host_cannot_redirect_to_a_third(
    label_studio: Host, elsewhere: Host, studio: Studio
):
    elsewhere.pages["/cell.png"] = redirect("http://169.254.169.254/latest/meta-data")
    with pytest.raises(ImageRefused, match="not allowed"):
        ImageFetcher(studio, (elsewhere.name,)).fetch(f"{elsewhere.url}/cell.png")


def test_an_allowed_host_cannot_redirect_into_label_studios_interface(
    label_studio: Host, elsewhere: Host, studio: Studio
):
    elsewhere.pages["/cell.png"] = redirect(f"{label_studio.url}/api/current-user/token")
    with pytest.raises(ImageRefused, match="no place where"):
        ImageFetcher(studio, (elsewhere.name,)).fetch(f"{elsewhere.url}/cell.png")
    assert label_studio.seen == []


def test_a_login_page_behind_a_redirect_is_not_asked_for(label_studio: Host, studio: Studio):
    label_studio.pages["/data/upload/1/cell.png"] = redirect("/user/login/?next=/data/x", 302)
    with pytest.raises(ImageRefused, match="/user/login/"):
        ImageFetcher(studio).fetch("/data/upload/1/cell.png")
    assert len(label_studio.seen) == 1


def test_a_redirect_to_what_is_no_address_is_refused(label_studio: Host, studio: Studio):
    label_studio.pages["/data/upload/1/cell.png"] = redirect("http://[::1")
    with pytest.raises(ImageRefused, match="redirects to what is no address"):
        ImageFetcher(studio).fetch("/data/upload/1/cell.png")


def test_an_address_with_half_a_character_is_refused(studio: Studio):
    with pytest.raises(ImageRefused, match="halves of characters"):
        ImageFetcher(studio).fetch("/data/upload/1/\ud800.png")


def test_endless_redirects_end(label_studio: Host, studio: Studio):
    label_studio.pages["/data/upload/1/cell.png"] = redirect("/data/upload/1/cell.png")
    with pytest.raises(ImageRefused, match="more than 3 times"):
        ImageFetcher(studio).fetch("/data/upload/1/cell.png")
    assert len(label_studio.seen) == 4


def test_an_announced_size_above_the_limit_is_refused_unread(label_studio: Host, studio: Studio):
    label_studio.pages["/data/upload/1/cell.png"] = body(bytes(3 * 2**20))
    with pytest.raises(ImageRefused, match=r"too large: 3 MiB, where 1 MiB"):
        ImageFetcher(studio, max_bytes=2**20).fetch("/data/upload/1/cell.png")


def test_a_size_that_was_not_announced_is_cut_while_reading(label_studio: Host, studio: Studio):
    sent = itertools.count()

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while next(sent) < 10_000:
                request.wfile.write(bytes(2**16))
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True

    label_studio.pages["/data/upload/1/cell.png"] = endless
    with pytest.raises(ImageRefused, match="too large"):
        ImageFetcher(studio, max_bytes=2**20).fetch("/data/upload/1/cell.png")
    assert next(sent) < 9_000


def test_exactly_the_limit_is_allowed(label_studio: Host, studio: Studio):
    label_studio.pages["/data/upload/1/cell.png"] = body(bytes(1000))
    assert ImageFetcher(studio, max_bytes=1000).fetch("/data/upload/1/cell.png") == bytes(1000)
    with pytest.raises(ImageRefused):
        ImageFetcher(studio, max_bytes=999).fetch("/data/upload/1/cell.png")


def test_a_trickle_is_cut_off(label_studio: Host, studio: Studio):
    stop = threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while not stop.wait(0.02):
                request.wfile.write(bytes(70_000))
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True

    label_studio.pages["/data/upload/1/cell.png"] = trickle
    try:
        with pytest.raises(ImageRefused, match="did not come within"):
            ImageFetcher(studio, max_seconds=0.2).fetch("/data/upload/1/cell.png")
    finally:
        stop.set()


def broken_off(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b"only this")
    request.close_connection = True


def test_half_an_image_is_none(label_studio: Host, elsewhere: Host, studio: Studio):
    label_studio.pages["/data/upload/1/cell.png"] = broken_off
    elsewhere.pages["/cell.png"] = broken_off
    fetcher = ImageFetcher(studio, (elsewhere.name,))
    with pytest.raises(StudioUnreachable, match="broke off"):
        fetcher.fetch("/data/upload/1/cell.png")
    with pytest.raises(ImageRefused, match="broke off"):
        fetcher.fetch(f"{elsewhere.url}/cell.png")


def test_an_image_that_is_gone_is_refused(label_studio: Host, elsewhere: Host, studio: Studio):
    fetcher = ImageFetcher(studio, (elsewhere.name,))
    label_studio.pages["/api/current-user/whoami"] = body(b"{}")
    with pytest.raises(ImageRefused, match="404"):
        fetcher.fetch("/data/upload/1/gone.png")
    with pytest.raises(ImageRefused, match="answered 404"):
        fetcher.fetch(f"{elsewhere.url}/gone.png?signature=secret")


def test_a_refused_token_is_not_blamed_on_the_image(label_studio: Host, studio: Studio):
    label_studio.pages["/data/upload/1/cell.png"] = status(401)
    with pytest.raises(StudioRefused, match="LABEL_STUDIO_API_KEY"):
        ImageFetcher(studio).fetch("/data/upload/1/cell.png")


@pytest.mark.parametrize("code", [403, 404, 429, 500])
def test_a_label_studio_that_refuses_everything_is_not_blamed_on_the_image(
    label_studio: Host, studio: Studio, code: int
):
    label_studio.pages["/data/upload/1/cell.png"] = status(code)
    label_studio.pages["/api/current-user/whoami"] = status(code)
    with pytest.raises(StudioRefused) as refused:
        ImageFetcher(studio).fetch("/data/upload/1/cell.png")
    assert refused.value.studio_status == code


def test_an_image_that_is_refused_once_is_asked_for_again(label_studio: Host, studio: Studio):
    def refuse_once(request: BaseHTTPRequestHandler) -> None:
        label_studio.pages["/data/upload/1/cell.png"] = body()
        request.send_error(500)

    label_studio.pages["/api/current-user/whoami"] = body(b"{}")
    label_studio.pages["/data/upload/1/cell.png"] = refuse_once
    assert ImageFetcher(studio).fetch("/data/upload/1/cell.png") == PIXELS


def test_a_label_studio_that_is_away_is_not_blamed_on_the_image(
    label_studio: Host, studio: Studio, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backend.label_studio.client.RETRY_AFTER_S", (0.0,))
    label_studio.pages["/data/upload/1/cell.png"] = status(503)
    with pytest.raises(StudioRefused, match="503"):
        ImageFetcher(studio).fetch("/data/upload/1/cell.png")
    assert len(label_studio.seen) == 2


def test_an_allowed_host_that_is_not_there_is_refused(elsewhere: Host, studio: Studio):
    name, url = elsewhere.name, elsewhere.url
    elsewhere.close()
    with pytest.raises(ImageRefused, match=name):
        ImageFetcher(studio, (name,)).fetch(f"{url}/cell.png")


def test_a_message_holds_no_signature(elsewhere: Host, studio: Studio):
    with pytest.raises(ImageRefused) as refused:
        ImageFetcher(studio).fetch(f"{elsewhere.url}/cell.png?X-Amz-Signature=secret")
    assert "secret" not in str(refused.value)


def test_an_image_within_its_address_is_read_unasked(label_studio: Host, studio: Studio):
    fetcher = ImageFetcher(studio, max_bytes=100)
    coded = base64.b64encode(PIXELS).decode()
    assert fetcher.fetch(f"data:image/png;base64,{coded}") == PIXELS
    content = b"pixels" * 12 + b"."
    wrapped = base64.encodebytes(content).decode().rstrip("=\n")  # as browsers take it
    assert "\n" in wrapped
    assert fetcher.fetch(f"data:image/png;base64,{wrapped}") == content
    assert fetcher.fetch("data:image/svg+xml,%3Csvg%2F%3E") == b"<svg/>"
    with pytest.raises(ImageRefused, match="no base64"):
        fetcher.fetch("data:image/png;base64,!!!")
    for size in (101, 1000):
        with pytest.raises(ImageRefused, match=r"^data:image/png;base64 is too large"):
            fetcher.fetch(f"data:image/png;base64,{base64.b64encode(bytes(size)).decode()}")
    assert label_studio.seen == []


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png,{'%' * (MOST_ESCAPES + 1)}",
        f"/data/upload/{'%41' * MOST_CHARACTERS}",
        f"http://files.example/{'?' * MOST_CHARACTERS}",
    ],
)
def test_an_address_without_end_is_not_decoded(label_studio: Host, studio: Studio, url: str):
    """Decoding it would take 200 times its bytes."""
    with pytest.raises(ImageRefused, match=r"encoded bytes|characters") as refused:
        ImageFetcher(studio, ("files.example",)).fetch(url)
    assert len(str(refused.value)) < 300
    assert label_studio.seen == []


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure-blob"])
def test_a_cloud_link_is_asked_of_label_studio_by_its_task(
    label_studio: Host, studio: Studio, scheme: str
):
    label_studio.pages["/tasks/7/resolve/"] = body()
    url = f"{scheme}://bucket/cell ü.png"
    assert ImageFetcher(studio).fetch(resolved(url, 7)) == PIXELS
    sent = label_studio.seen[0][0].partition("fileuri=")[2]
    assert base64.urlsafe_b64decode(sent).decode() == url
    assert resolved("/data/upload/1/cell.png", 7) == "/data/upload/1/cell.png"


@pytest.mark.parametrize(
    "url",
    [
        "https://lab.example/ls/data/upload/1/cell.png",
        "https://LAB.example:443/data/upload/1/cell.png",
        "/ls/data/upload/1/cell.png",
    ],
)
def test_a_name_that_label_studio_announces_is_its_own(
    label_studio: Host, studio: Studio, url: str
):
    label_studio.pages["/data/upload/1/cell.png"] = body()
    fetcher = ImageFetcher(studio, names=lambda: ["https://lab.example/ls"])
    assert fetcher.fetch(url) == PIXELS
    assert label_studio.authorizations == [f"Token {TOKEN}"]
    for other in (
        "http://lab.example/ls/data/upload/1/cell.png",
        "https://lab.example:8443/ls/data/upload/1/cell.png",
        "https://other.example/ls/data/upload/1/cell.png",
        "https://lab.example/ls/api/token",
    ):
        with pytest.raises(ImageRefused):
            fetcher.fetch(other)
    assert len(label_studio.seen) == 1


@pytest.mark.parametrize(
    "name", ["", "lab", "ftp://lab", "http://", "https://u:p@lab", "http://a:x"]
)
def test_what_is_no_address_is_no_name(name: str):
    assert own_name(name) is None


def test_advice_for_another_name_of_label_studio_does_not_end_in_401(
    elsewhere: Host, studio: Studio
):
    url = f"{elsewhere.url}/data/upload/1/cell.png"
    elsewhere.pages["/data/upload/1/cell.png"] = status(401)
    for hosts in ((), (elsewhere.name,)):
        with pytest.raises(ImageRefused, match=rf"LABEL_STUDIO_HOST={elsewhere.url} "):
            ImageFetcher(studio, hosts).fetch(url)
