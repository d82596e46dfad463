"""Image addresses that a stranger wrote: whom they reach, and what is sent there.

The servers are real ones on the loopback; only the name service is ours, by a hook in
``socket.getaddrinfo``, since a real one cannot be made to change its mind.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from backend.errors import ImageRefused
from backend.label_studio.bulk import Studio
from backend.label_studio.images import ImageFetcher
from backend.label_studio.ssrf import PinnedAdapter, forbidden, spelled, spelled_with_port
from tests.backend.host import PIXELS, Host, body, redirect
from tests.backend.workplaces import TOKEN

REAL = socket.getaddrinfo


class Names:
    """A name service: each name's answers in turn, the last of them for good."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in self.answers:
            return REAL(host, port, *args, **kwargs)
        self.asked.append(host)
        turns = self.answers[host]
        addresses = turns.pop(0) if len(turns) > 1 else turns[0]
        return [entry for address in addresses for entry in REAL(address, port, *args, **kwargs)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    service = Names()
    monkeypatch.setattr(socket, "getaddrinfo", service)
    return service


@pytest.fixture
def elsewhere() -> Iterator[Host]:
    host = Host()
    host.pages["/cell.png"] = body()
    yield host
    host.close()


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1"),
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("::", "::1", "fe80::1", "fe80::1%lo", "ff02::1", "fd00:ec2::254", "fd20:ce::254"),
        *("fd00:c1::a9fe:a9fe", "fd00:100::100:200", "fd00:a9fe:a9fe::1", "fd00:42::42"),
        *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:0:0", "::127.0.0.1"),
        *("64:ff9b::169.254.169.254", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("64:ff9b:1::169.254.169.254", "64:ff9b:1:2::127.0.0.1", "::ffff:0:127.0.0.1"),
        "2001:0:7f00:1:0:0:f5ff:fffe",  # Teredo, its server the loopback
    ],
)
def test_an_address_that_no_image_server_has_is_forbidden(address: str) -> None:
    assert forbidden(ipaddress.ip_address(address)) is not None


@pytest.mark.parametrize(
    "address",
    [
        *("10.1.2.3", "172.16.0.9", "192.168.1.20", "100.64.0.1", "93.184.216.34"),
        *("fd12:3456::1", "2a00:1450:4001::1", "::ffff:10.1.2.3", "64:ff9b::5db8:d822"),
    ],
)
def test_a_laboratorys_own_network_and_the_world_are_not(address: str) -> None:
    assert forbidden(ipaddress.ip_address(address)) is None


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("Files.LAB.", "files.lab"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("::FFFF:7f00:1", "[::ffff:127.0.0.1]"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_host_is_compared_in_one_spelling(written: str, compared: str) -> None:
    assert ipaddress_or_text(spelled(written)) == ipaddress_or_text(compared)


def ipaddress_or_text(name: str) -> object:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name


@pytest.mark.parametrize(
    ("listed", "compared"),
    [
        ("Files.lab:8080", "files.lab:8080"),
        ("fd12::1", "[fd12::1]"),
        ("[fd12::1]:8080", "[fd12::1]:8080"),
        ("10.0.0.1:80", "10.0.0.1:80"),
    ],
)
def test_an_entry_of_the_list_is_read_with_and_without_a_port(listed: str, compared: str) -> None:
    assert spelled_with_port(listed) == compared


# Names that lead astray


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.0.0.2", "0.0.0.0", "169.254.169.254", "::1", "::ffff:127.0.0.1"),
        *("fe80::1", "224.0.0.1", "255.255.255.255", "::ffff:169.254.169.254"),
    ],
)
def test_an_allowed_name_that_leads_to_such_an_address_is_refused_unasked(
    elsewhere: Host, studio: Studio, names: Names, address: str
) -> None:
    names.answers["files.lab"] = [[address]]
    fetcher = ImageFetcher(studio, (f"files.lab:{elsewhere.port}",))
    with pytest.raises(ImageRefused, match=r"add .*:\d+ to ALLOWED_IMAGE_HOSTS too"):
        fetcher.fetch(f"http://files.lab:{elsewhere.port}/cell.png")
    assert elsewhere.seen == []


def test_one_bad_address_among_good_ones_is_enough(
    elsewhere: Host, studio: Studio, names: Names
) -> None:
    names.answers["files.lab"] = [["10.255.255.1", "127.0.0.1"]]
    fetcher = ImageFetcher(studio, (f"files.lab:{elsewhere.port}",))
    with pytest.raises(ImageRefused, match=r"127\.0\.0\.1 is this machine itself"):
        fetcher.fetch(f"http://files.lab:{elsewhere.port}/cell.png")
    assert elsewhere.seen == []


def test_such_an_address_is_taken_where_the_list_holds_it_too(
    elsewhere: Host, studio: Studio, names: Names
) -> None:
    names.answers["files.lab"] = [["127.0.0.1"]]
    fetcher = ImageFetcher(studio, (f"files.lab:{elsewhere.port}", elsewhere.name))
    assert fetcher.fetch(f"http://files.lab:{elsewhere.port}/cell.png") == PIXELS
    assert elsewhere.seen[0][1]["Host"] == f"files.lab:{elsewhere.port}"


@pytest.mark.parametrize("form", ["2130706433", "0x7f000001", "017700000001", "127.1", "0x7f.1"])
def test_another_way_to_write_the_loopback_is_no_way_to_it(
    elsewhere: Host, studio: Studio, form: str
) -> None:
    url = f"http://{form}:{elsewhere.port}/cell.png"
    # Not the 127.0.0.1 that is listed; and where somebody lists this very form, still the loopback.
    for allowed in ((f"10.0.0.1:{elsewhere.port}",), (f"{form}:{elsewhere.port}",)):
        with pytest.raises(ImageRefused):
            ImageFetcher(studio, allowed).fetch(url)
    assert elsewhere.seen == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_a_bare_address_is_refused_unless_listed(
    elsewhere: Host, studio: Studio, host: str
) -> None:
    with pytest.raises(ImageRefused, match="not allowed"):
        ImageFetcher(studio, ("files.lab",)).fetch(f"http://{host}:{elsewhere.port}/cell.png")
    assert elsewhere.seen == []


def test_a_redirect_is_looked_up_and_checked_as_well(
    label_studio: Host, elsewhere: Host, studio: Studio, names: Names
) -> None:
    names.answers["bucket.lab"] = [["127.0.0.1"]]
    label_studio.pages["/tasks/7/resolve/"] = redirect(
        f"http://bucket.lab:{elsewhere.port}/cell.png"
    )
    fetcher = ImageFetcher(studio, (f"bucket.lab:{elsewhere.port}",))
    with pytest.raises(ImageRefused, match="this machine itself"):
        fetcher.fetch("/tasks/7/resolve/?fileuri=x")
    assert elsewhere.seen == []


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is up on Linux alone")
def test_a_name_that_changes_between_look_and_call_changes_nothing(
    studio: Studio, names: Names, elsewhere: Host
) -> None:
    """Rebinding: the second answer would lead to 127.0.0.2, where the same port listens."""
    with socket.create_server(("127.0.0.2", elsewhere.port)) as inner:
        inner.settimeout(0)
        names.answers["files.lab"] = [["127.0.0.1"], ["127.0.0.2"]]
        fetcher = ImageFetcher(studio, (f"files.lab:{elsewhere.port}", elsewhere.name))
        assert fetcher.fetch(f"http://files.lab:{elsewhere.port}/cell.png") == PIXELS
        assert names.asked == ["files.lab"]
        with pytest.raises(ImageRefused, match=r"127\.0\.0\.2 is this machine"):
            fetcher.fetch(f"http://files.lab:{elsewhere.port}/cell.png")
        with pytest.raises(BlockingIOError):
            inner.accept()
    assert len(elsewhere.seen) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is up on Linux alone")
def test_a_second_address_is_tried_where_the_first_is_dead(
    studio: Studio, names: Names, elsewhere: Host
) -> None:
    names.answers["files.lab"] = [["127.0.0.2", "127.0.0.1"]]
    allowed = (f"files.lab:{elsewhere.port}", elsewhere.name, f"127.0.0.2:{elsewhere.port}")
    url = f"http://files.lab:{elsewhere.port}/cell.png"
    assert ImageFetcher(studio, allowed).fetch(url) == PIXELS


def test_a_name_that_nobody_knows_is_a_sentence(studio: Studio) -> None:
    with pytest.raises(ImageRefused, match="its address cannot be found"):
        ImageFetcher(studio, ("nobody.invalid",)).fetch("http://nobody.invalid/cell.png")


def test_an_address_that_is_read_in_two_ways_reaches_nobody(elsewhere: Host) -> None:
    with requests.Session() as session:
        session.mount("http://", PinnedAdapter("files.lab", 80, "127.0.0.1"))
        with pytest.raises(ImageRefused, match="two ways"):
            session.get(f"{elsewhere.url}/cell.png", timeout=5)
    assert elsewhere.seen == []


def test_a_proxy_that_the_operator_set_is_asked_by_name(
    elsewhere: Host, studio: Studio, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Host()
    try:
        proxy.pages["http://files.example/cell.png"] = body()
        monkeypatch.setenv("http_proxy", proxy.url)
        fetcher = ImageFetcher(studio, ("files.example",))
        assert fetcher.fetch("http://files.example/cell.png") == PIXELS
        assert proxy.authorizations == [None]
        with pytest.raises(ImageRefused, match="not allowed"):
            fetcher.fetch("http://169.254.169.254/latest/meta-data/")
        elsewhere.pages["/cell.png"] = body()  # on this machine, which no proxy reaches
        url = f"{elsewhere.url}/cell.png"
        assert ImageFetcher(studio, (elsewhere.name,)).fetch(url) == PIXELS
        assert len(proxy.seen) == 1
    finally:
        proxy.close()


# TLS: the address is pinned, the certificate is the name's


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    authority = trustme.CA()
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    return authority


class TlsHost(Host):
    """A ``Host`` behind a certificate for ``name``; ``wanted`` logs the names asked for by SNI."""

    def __init__(self, authority: trustme.CA, name: str) -> None:
        super().__init__()
        self.wanted: list[str | None] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        context.sni_callback = lambda _socket, asked, _context: self.wanted.append(asked)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )


def test_a_pinned_connection_asks_for_the_certificate_of_the_name(
    studio: Studio, names: Names, authority: trustme.CA
) -> None:
    host = TlsHost(authority, "files.lab")
    try:
        host.pages["/cell.png"] = body()
        names.answers["files.lab"] = names.answers["other.lab"] = [["127.0.0.1"]]
        allowed = (f"files.lab:{host.port}", f"other.lab:{host.port}", host.name)
        fetcher = ImageFetcher(studio, allowed)
        assert fetcher.fetch(f"https://files.lab:{host.port}/cell.png") == PIXELS
        assert host.wanted == ["files.lab"]
        with pytest.raises(ImageRefused, match="SSLError"):
            fetcher.fetch(f"https://other.lab:{host.port}/cell.png")
        assert len(host.seen) == 1
    finally:
        host.close()


# Our token


def test_the_token_stays_on_its_port(label_studio: Host, elsewhere: Host, studio: Studio) -> None:
    label_studio.pages["/data/upload/1/cell.png"] = redirect(f"{elsewhere.url}/data/upload/1/x.png")
    elsewhere.pages["/data/upload/1/x.png"] = body()
    fetcher = ImageFetcher(studio, (elsewhere.name,))
    assert fetcher.fetch("/data/upload/1/cell.png") == PIXELS
    assert fetcher.fetch(f"{elsewhere.url}/data/upload/1/x.png") == PIXELS
    assert label_studio.authorizations == [f"Token {TOKEN}"]
    assert elsewhere.authorizations == [None, None]


def test_the_token_never_leaves_tls(names: Names, authority: trustme.CA, elsewhere: Host) -> None:
    """Label Studio by https: neither its plain twin nor a redirect to it gets the token."""
    host = TlsHost(authority, "studio.lab")
    try:
        names.answers["studio.lab"] = [["127.0.0.1"]]
        plain = f"http://studio.lab:{elsewhere.port}"
        elsewhere.pages["/data/upload/1/cell.png"] = body()
        host.pages["/data/upload/1/cell.png"] = body()
        host.pages["/data/upload/1/moved.png"] = redirect(f"{plain}/data/upload/1/cell.png")
        with Studio(f"https://studio.lab:{host.port}", TOKEN, timeout_s=5) as studio:
            assert ImageFetcher(studio).fetch("/data/upload/1/cell.png") == PIXELS
            for url in (
                "/data/upload/1/moved.png",
                f"{plain}/data/upload/1/cell.png",
                f"http://studio.lab:{host.port}/data/upload/1/cell.png",
            ):
                with pytest.raises(ImageRefused, match="not allowed"):
                    ImageFetcher(studio).fetch(url)
            assert elsewhere.seen == []
            # And where the operator allows the plain twin, it is asked as a stranger.
            allowed = ImageFetcher(studio, (f"studio.lab:{elsewhere.port}", elsewhere.name))
            assert allowed.fetch("/data/upload/1/moved.png") == PIXELS
        assert set(host.authorizations) == {f"Token {TOKEN}"}
        assert elsewhere.authorizations == [None]
    finally:
        host.close()


# Odd addresses


@pytest.mark.parametrize(
    "shape",
    [
        *("http://{name}#@evil.example/x", "http://evil.example#{name}/x"),
        *("http://evil.example\\{name}/x", "http:\\\\{name}\\x", "http:/\\{name}/cell.png"),
        *("http://evil.example%2f@{name}/x", "http://{name}%00.evil.example/x"),
        *("http://{name}%0d%0aX-A: b/x", "http://{name} @evil.example/x", "http://{name};x/"),
        *("\thttp://{name}/cell.png", "ht\ntp://{name}/cell.png", "http://{name}\r\n/cell.png"),
        *("///{name}/cell.png", "/\\{name}/cell.png", "//{name}/cell.png", "http:{name}/cell.png"),
        *("javascript://{name}/%0aalert(1)", "data:image/png;base64,iVBORw0KGgo=", "jar:http://x"),
        *("file://{name}/etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "gopher://{name}/"),
        *("dict://{name}/x", "ldap://{name}/", "ftp://{name}/x", "unix:/run/x.sock", "netdoc:///"),
        *("http://{name}:0/x", "http://{name}:99999/x", "http://[::1%25lo]/x", "http://{name}:x/"),
    ],
)
def test_an_odd_address_reaches_nobody_with_anything_of_ours(
    label_studio: Host, elsewhere: Host, studio: Studio, shape: str
) -> None:
    """Refused, or the listed host itself is asked, as a stranger; never with a line break."""
    fetcher = ImageFetcher(studio, (elsewhere.name,))
    with contextlib.suppress(ImageRefused):
        fetcher.fetch(shape.format(name=elsewhere.name))
    assert label_studio.seen == []
    assert set(elsewhere.authorizations) <= {None}
    assert all("X-A" not in headers for _, headers in elsewhere.seen)


@pytest.mark.parametrize("up", ["..", "%2e%2e", "%252e%252e", "%25252e%25252e", ".%2e", "%2E."])
@pytest.mark.parametrize(
    "shape",
    [
        "/data/local-files/?d={up}/{up}/etc/passwd",
        "/data/local-files/?d=folder/{up}/{up}/secrets.json",
        "/data/local-files/?d=folder%2F{up}%2Fx.png",
        "/data/local-files/?d=folder%5C{up}%5Cx.png",
        "/data/local-files/?x=1&d={up}/x.png",
        "/storage-data/uploaded/?filepath=upload/{up}/{up}/x",
        "/data/upload/{up}/{up}/api/projects",
        "/data/upload/1/{up}/2/x.png",
        "/data/upload/1%2f{up}%2fx.png",
    ],
)
def test_no_address_climbs_out_of_a_folder_of_label_studio(
    label_studio: Host, studio: Studio, shape: str, up: str
) -> None:
    with pytest.raises(ImageRefused, match="no place where Label Studio keeps images"):
        ImageFetcher(studio).fetch(shape.format(up=up))
    assert label_studio.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/data/local-files/?d=folder/100%25.png",
        "/data/local-files/?d=folder%2Fa..b/cell...png",
        "/data/local-files/?d=folder%5Ccell.png",  # as Label Studio on Windows writes it
        "/data/upload/1/..cell.png",
    ],
)
def test_dots_and_signs_in_a_name_are_no_climb(
    label_studio: Host, studio: Studio, path: str
) -> None:
    label_studio.pages[path.split("?")[0]] = body()
    assert ImageFetcher(studio).fetch(path) == PIXELS
