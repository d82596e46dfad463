"""The bytes of a task's image, from where a task's data may name it, and from nowhere else.

Whoever may import tasks writes these addresses, so each is taken as a stranger's: our token
goes to Label Studio alone, and only to the paths behind which it keeps images; another host
is asked only when ``ALLOWED_IMAGE_HOSTS`` names it, at an address that was checked
(``backend.label_studio.ssrf``); what is read is bounded.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from urllib.parse import SplitResult, parse_qsl, unquote, unquote_to_bytes, urljoin, urlsplit

import requests
import urllib3

from backend.errors import ImageRefused, StudioRefused, StudioUnreachable
from backend.label_studio.bulk import Studio
from backend.label_studio.client import AWAY, CONNECT_TIMEOUT_S
from backend.label_studio.limited_session import limited
from backend.label_studio.ssrf import DEFAULT_PORTS, open_checked, spelled, spelled_with_port
from backend.shorten import short

MAX_BYTES = 64 * 2**20
# A 64 MiB image over 10 Mbit/s takes 54 s; whoever trickles is cut off.
MAX_SECONDS = 90.0
# Of what comes, more than the image: headers, and the lengths of chunks, which may be as long as
# small chunks themselves.
MOST_AROUND = 2
MOST_BEFORE_BYTES = 2**20
# Label Studio sends one redirect, to the signed address in a cloud storage, which may send
# one more to its region.
MAX_REDIRECTS = 3
CHUNK_BYTES = 64 * 2**10

# Uploads, local files, persistent storage, and cloud storage through Label Studio.
_IMAGE_PATHS = re.compile(
    r"/(data/(upload|local-files)/|storage-data/|(tasks|projects)/\d+/(resolve|presign)/)"
)
# The parameters in which /data/local-files/ and /storage-data/ name a file.
_FILE_PARAMETERS = frozenset({"d", "filepath"})
# What Label Studio's source storages keep in a task's data.
_CLOUD = frozenset({"s3", "s3s", "gs", "azure-blob", "azure_spi"})
NOT_THE_IMAGES_FAULT = frozenset({401, 429, *AWAY})
# No honest address is encoded oftener, or longer: servers take 8 KiB.
MOST_ENCODED = 5
MOST_CHARACTERS = 2**16
# Each encoded byte of a data: address takes 200 while it is decoded.
MOST_ESCAPES = 2**20


class ImageFetcher:
    """Fetches images. Holds no state of its own, so that threads may share it.

    Args:
        studio: whose images and token.
        allowed_hosts: other hosts that images may come from: ``name`` for the ordinary port of
            http and https, or ``name:port``. Such a host is trusted by name, on the inner
            network too; but a name that leads to the loopback, to the local link or to a cloud's
            own services is refused unless that address is listed itself.
        max_bytes: a larger image is refused while it is read.
        max_seconds: how long one image may take in all, from the first name that is looked up to
            the last byte.
        names: gives other addresses that this Label Studio says it has (``own_name``), as when it
            stands behind a proxy. What they begin is asked of the address that ``studio`` has.
    """

    def __init__(
        self,
        studio: Studio,
        allowed_hosts: tuple[str, ...] = (),
        max_bytes: int = MAX_BYTES,
        max_seconds: float = MAX_SECONDS,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._studio = studio
        self._address = urlsplit(studio.url)
        self._allowed = frozenset(spelled_with_port(host) for host in allowed_hosts)
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._names = names

    def fetch(self, url: str) -> bytes:
        """The bytes that ``url`` (as a task's data has it) names; they need not be an image.

        Raises:
            ImageRefused: not allowed, not there, too large, or too slow.
            StudioUnreachable, StudioRefused: Label Studio itself is away or refuses all that we
                ask, which says nothing of this image.
        """
        if url[:5].lower() == "data:":
            return self._embedded(url)
        with limited(self._max_seconds, MOST_AROUND * self._max_bytes + MOST_BEFORE_BYTES) as limit:
            try:
                return self._follow(url)
            except (ImageRefused, StudioUnreachable) as error:
                if limit.is_exceeded:
                    raise self._too_large(url, "more") from error
                if limit.is_over:
                    raise ImageRefused(
                        f"{short_url(url)} did not come within {self._max_seconds:g} s "
                        f"({limit.received} bytes did)."
                    ) from error
                raise

    def _follow(self, url: str) -> bytes:
        target = url
        for _ in range(MAX_REDIRECTS + 1):
            with self._open(target, url) as answer:
                if not answer.is_redirect:
                    return self._read(answer, url)
                target = _redirected(answer, url)
        raise ImageRefused(f"{short_url(url)} redirects more than {MAX_REDIRECTS} times.")

    def _embedded(self, url: str) -> bytes:
        """The bytes within a ``data:`` address."""
        head, _, text = url.partition(",")
        # Base64 takes four characters for three bytes, an encoded byte three characters.
        if len(text) > 3 * self._max_bytes:
            raise self._too_large(head, "more")
        if text.count("%") > MOST_ESCAPES:
            raise ImageRefused(
                f"{short_url(head)},... holds more than {MOST_ESCAPES} encoded bytes: write it in "
                "base64."
            )
        try:
            content = unquote_to_bytes(text)
            if head.lower().endswith(";base64"):
                # As browsers do: white space does not count, and the end may lack its padding.
                content = b"".join(content.split()).rstrip(b"=")
                content = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageRefused(f"{short_url(head)},... is no base64: {error}.") from error
        if len(content) > self._max_bytes:
            raise self._too_large(head, f"{len(content) / 2**20:.0f} MiB")
        return content

    def _open(self, target: str, url: str) -> AbstractContextManager[requests.Response]:
        """GET ``target``, which is ``url`` or what it was redirected to; the body unread."""
        parts = _split(target)
        own = [self._address, *map(urlsplit, self._names())]
        if not parts.scheme and not parts.netloc:
            return self._open_studio(parts, url, own)
        if parts.scheme not in DEFAULT_PORTS:
            raise ImageRefused(
                f"{short_url(target)} is neither a path of Label Studio nor http(s). Images in "
                "cloud storage or on a disk must be added to the project as a source storage, so "
                "that Label Studio serves them."
            )
        if "@" in parts.netloc:
            raise ImageRefused(
                f"The image address at {parts.hostname} holds a user name or password: take it "
                "out, we send none."
            )
        if _origin(parts) in map(_origin, own):
            return self._open_studio(parts, url, own)
        return self._open_other(parts, url)

    def _open_studio(
        self, parts: SplitResult, url: str, own: Iterable[SplitResult]
    ) -> requests.Response:
        """GET a path of Label Studio, without the prefix that one of its ``own`` addresses has."""
        path = parts.path
        for prefix in sorted({address.path for address in own}, key=len, reverse=True):
            if prefix and path.startswith(f"{prefix}/"):
                path = path[len(prefix) :]
                break
        decoded = unquote(path)
        climbs = "\\" in decoded or _climbs(path)
        climbs |= any(_climbs(v) for name, v in parse_qsl(parts.query) if name in _FILE_PARAMETERS)
        if climbs or not path.startswith("/") or not _IMAGE_PATHS.match(decoded):
            raise ImageRefused(
                f"{short_url(parts.geturl())} is no place where Label Studio keeps images: "
                "expected /data/upload/..., /data/local-files/?d=... or "
                "/tasks/ID/resolve/?fileuri=..."
            )
        where = f"{path}?{parts.query}" if parts.query else path
        try:
            return self._studio.open_stream(where)
        except StudioRefused as error:
            if error.studio_status in NOT_THE_IMAGES_FAULT:
                raise
        # A proxy may answer 404, and a struggling server 500 or 403, to whatever it is asked.
        self._studio.whoami()
        try:
            return self._studio.open_stream(where)
        except StudioRefused as error:
            if error.studio_status in NOT_THE_IMAGES_FAULT:
                raise
            raise ImageRefused(f"No image at {short_url(url)}: {error}") from error

    def _open_other(self, parts: SplitResult, url: str) -> requests.Response:
        name, port = _host(parts)
        wanted = [f"{name}:{port}"] + ([name] if port == DEFAULT_PORTS[parts.scheme] else [])
        if not self._allowed.intersection(wanted):
            raise ImageRefused(
                f"{short_url(url)} needs the host {wanted[-1]}, which is not allowed: add it to "
                f"ALLOWED_IMAGE_HOSTS if you trust it.{_maybe_own(parts)}"
            )
        try:
            answer = open_checked(
                parts.geturl(),
                name,
                port,
                self._allowed,
                (CONNECT_TIMEOUT_S, self._studio.timeout_s),
            )
        except requests.RequestException as error:
            raise ImageRefused(
                f"No image from {wanted[-1]}: {type(error).__name__} within "
                f"{self._studio.timeout_s:g} s."
            ) from error
        if answer.status_code >= 400:
            answer.close()
            hint = _maybe_own(parts) if answer.status_code in (401, 403) else ""
            raise ImageRefused(
                f"{wanted[-1]} answered {answer.status_code} for {short_url(url)}.{hint}"
            )
        return answer

    def _read(self, answer: requests.Response, url: str) -> bytes:
        announced = answer.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_large(url, f"{int(announced) / 2**20:.0f} MiB")
        content = bytearray()
        try:
            for chunk in answer.iter_content(CHUNK_BYTES):
                content += chunk
                if len(content) > self._max_bytes:
                    raise self._too_large(url, "more")
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            text = (
                f"{short_url(url)} broke off after {len(content)} bytes ({type(error).__name__})."
            )
            if _origin(urlsplit(answer.url)) == _origin(self._address):
                raise StudioUnreachable(f"{text} Is Label Studio being restarted?") from error
            raise ImageRefused(text) from error
        return bytes(content)

    def _too_large(self, url: str, size: str) -> ImageRefused:
        return ImageRefused(
            f"{short_url(url)} is too large: {size}, where {self._max_bytes / 2**20:.0f} MiB are "
            "allowed."
        )


def resolved(url: str, task_id: int) -> str:
    """``url``, or where Label Studio gives what is behind a link of one of its cloud storages.

    Its listings come with such links resolved already, what it sends to /predict does not.
    """
    if url.partition("://")[0] not in _CLOUD:
        return url
    return f"/tasks/{task_id}/resolve/?fileuri={base64.urlsafe_b64encode(url.encode()).decode()}"


def _maybe_own(parts: SplitResult) -> str:
    """What to do if an address of another host is Label Studio's, as its path may show."""
    if not _IMAGE_PATHS.search(parts.path):
        return ""
    return (
        " If it is another name of your Label Studio, list it nowhere: start Label Studio with "
        f"LABEL_STUDIO_HOST={parts.scheme}://{parts.netloc} (and its path), and open Settings > "
        "Model there once, so that it tells us."
    )


def own_name(hostname: str) -> str | None:
    """What Label Studio announces as its ``hostname``, if that is an address: without a last /."""
    try:
        parts = _split(hostname)
    except ImageRefused:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    return hostname.rstrip("/")


def _split(url: str) -> SplitResult:
    """``urlsplit``, with the port checked too.

    Backslashes and control characters are refused: browsers, urllib and urllib3 do not agree
    on where the host ends in such an address.
    """
    if len(url) > MOST_CHARACTERS:
        raise ImageRefused(
            f"{short_url(url)} is no address: it has {len(url)} characters, and at most "
            f"{MOST_CHARACTERS} are read."
        )
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ImageRefused(f"{short_url(url)} is no address: {error}.") from error
    if "\\" in parts.netloc or any(ord(character) < 33 for character in parts.netloc):
        raise ImageRefused(f"{short_url(url)} is no address: its host holds odd characters.")
    if parts.netloc and not parts.hostname:
        raise ImageRefused(f"{short_url(url)} is no address: it has no host.")
    if any(character in url for character in "\r\n\t\0"):
        raise ImageRefused(f"{short_url(url)} is no address: it holds control characters.")
    if any("\ud800" <= character <= "\udfff" for character in url):
        raise ImageRefused(f"{short_url(url)} is no address: it holds halves of characters.")
    return parts


def _climbs(path: str) -> bool:
    """Whether it leads up by ``..``, however often that is encoded: a proxy may decode as well."""
    for _ in range(MOST_ENCODED):
        if ".." in re.split(r"[/\\]", path) or "\0" in path:
            return True
        decoded = unquote(path)
        if decoded == path:
            return False
        path = decoded
    return True


def _redirected(answer: requests.Response, url: str) -> str:
    try:
        return urljoin(answer.url, answer.headers["Location"])
    except ValueError as error:
        raise ImageRefused(f"{short_url(url)} redirects to what is no address: {error}.") from error


def _host(parts: SplitResult) -> tuple[str, int]:
    """(name as it is compared, port); an IPv6 address keeps its brackets."""
    return spelled(parts.hostname or ""), parts.port or DEFAULT_PORTS[parts.scheme]


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return (parts.scheme, *_host(parts))


def short_url(url: str) -> str:
    """``url`` for a message: without what may be a signature or a password, and not endless."""
    text = url.partition("?")[0]
    if text[:5].lower() == "data:":
        text = text.partition(",")[0]
    return short(re.sub(r"//[^/]*@", "//", text), 120)
