"""Speaking HTTP with Label Studio: sessions, tokens, retries, and errors as sentences.

Every call has a time limit, for the next byte and for all of them; only GETs are repeated,
redirects are refused, and no ``.netrc`` is read. Both kinds of token work: a legacy token is sent
as it is; a personal access token is a JWT refresh token and is exchanged for access tokens that
live 300 s.

``bulk`` adds the calls that the web and the rounds make; ``control`` lets label-studio-sdk speak
through here.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urljoin, urlsplit

import orjson
import requests
from requests.auth import AuthBase
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import LocationParseError

from backend.errors import StudioRefused, StudioUnreachable
from backend.label_studio.limited_session import LimitedSession, limited
from backend.setting_values import is_loopback
from backend.shorten import short, shorten

CONNECT_TIMEOUT_S = 5.0
# 100 MB of masks over 10 Mbit/s take 80 s; who sends a byte now and then is cut off.
ANSWER_S = 300.0
# Waits before the second, third and fourth try of a GET: a server that restarts is back in 4-6 s.
RETRY_AFTER_S = (0.3, 1.0, 4.0)
# Statuses by which a proxy says that the server behind it is away for the moment.
AWAY = (502, 503, 504)
# Refused, dropped, silent, or broken off in the middle of the answer.
NO_ANSWER = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
# What is wrong on our side: an address, proxy or file of certificates that cannot be used.
CANNOT_ASK = (OSError, LocationParseError)
# An access token is renewed this long before it expires, so that a call which starts now is over
# in time.
REFRESH_BEFORE_S = 60.0

Json = dict[str, Any]


class StudioHttp:
    """HTTP with one Label Studio, as one user. Safe to share between threads and after fork.

    Args:
        url: where Label Studio answers, a path behind the host included.
        api_key: a legacy token or a personal access token.
        timeout_s: how long an ordinary call may wait for the next byte.
        answer_s: how long a call may take in all, unless it may wait longer for one byte.
        on_error: told of each call that failed: "unreachable", or the HTTP status that came.

    Every method raises:
        StudioUnreachable: no answer in time.
        StudioRefused: an answer that is an error; ``studio_status`` holds its HTTP status.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        timeout_s: float = 30.0,
        answer_s: float = ANSWER_S,
        on_error: Callable[[str], None] = lambda _error: None,
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._answer_s = answer_s
        self._on_error = on_error
        self._token = _Token(self, api_key.strip())
        self._local = threading.local()
        # Weak: a thread that ends takes its session along.
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        for session in list(self._sessions):
            session.close()

    def get(
        self,
        path: str,
        parameters: Mapping[str, str | int] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Any:  # Label Studio's JSON, of many shapes
        """What GET ``path`` answers."""
        return self.call("GET", path, parameters=parameters, timeout_s=timeout_s)

    def send(
        self, method: str, path: str, body: object = None, *, timeout_s: float | None = None
    ) -> Any:  # Label Studio's JSON, of many shapes
        """What ``method`` on ``path`` answers to a JSON ``body``."""
        content = None if body is None else orjson.dumps(body)
        return self.call(method, path, content=content, timeout_s=timeout_s)

    def call(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        timeout_s: float | None = None,
    ) -> Any:  # Label Studio's JSON, of many shapes
        """Make one call and decode its answer.

        Args:
            path: from Label Studio's own address on, beginning with ``/``; it may hold a query.
            content: the body, as JSON.
            files: {field name: (file name, bytes)}, instead of ``content``.
            timeout_s: None means the client's own.

        Returns:
            The decoded JSON; None where there is no body.
        """
        with self._telling_errors():
            answer = self._request(
                method,
                path,
                parameters=parameters,
                content=content,
                files=files,
                timeout_s=timeout_s,
            )
            return self._decoded(method, path, answer)

    def open_stream(self, path: str) -> requests.Response:
        """GET ``path`` of Label Studio with our token, its body unread, redirects not followed.

        The body has no limit but that of the caller (``limited``).

        Args:
            path: begins with one ``/``; the path that Label Studio itself lives under may be
                left out. The token never goes to any other host.
        """
        if not path.startswith("/") or path.startswith("//"):
            raise ValueError(
                f"expected a path of Label Studio such as /data/upload/..., got {path!r}"
            )
        prefix = urlsplit(self.url).path
        if prefix and path.startswith(f"{prefix}/"):
            path = path[len(prefix) :]
        with self._telling_errors():
            answer = self._request("GET", path, stream=True)
            if answer.status_code < 400:
                return answer
            try:
                with answer, limited(self._answer_s):
                    raise self._refusal("GET", path, answer)
            except NO_ANSWER as error:
                raise self._unreachable(f"GET {path}", self._answer_s, error) from error

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except StudioUnreachable:
            self._on_error("unreachable")
            raise
        except StudioRefused as error:
            self._on_error(str(error.studio_status))
            raise

    def _decoded(self, method: str, path: str, answer: requests.Response) -> Any:
        with answer:
            if answer.status_code >= 400:
                raise self._refusal(method, path, answer)
            if 300 <= answer.status_code < 400:
                to = answer.headers.get("Location", "")
                raise StudioRefused(_redirected(self.url, _bare(path), to), answer.status_code)
            if answer.status_code == 204 or not answer.content:
                return None
            try:
                return orjson.loads(answer.content)
            except orjson.JSONDecodeError as error:
                raise StudioRefused(
                    f"{self.url}{_bare(path)} answered {answer.status_code}{by_proxy(self.url)} "
                    f"with {_not_json(answer)}: is LABEL_STUDIO_URL really Label Studio's address, "
                    "with its path where it lives under one (as https://host/label-studio), and "
                    "without a proxy's login before it?",
                    answer.status_code,
                ) from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        timeout_s: float | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """One call, repeated where that is harmless: a GET without answer, or a stale token."""
        timeout_s = timeout_s or self.timeout_s
        send = partial(
            self._session().request,
            method,
            self.url + path,
            params=parameters,
            data=content,
            headers=None if content is None else {"Content-Type": "application/json"},
            files=files,
            auth=self._token,
            timeout=(CONNECT_TIMEOUT_S, timeout_s),
            stream=stream,
            allow_redirects=False,
        )
        waits = iter(RETRY_AFTER_S if method == "GET" else ())
        renewed = False
        while True:
            try:
                with limited(max(timeout_s, self._answer_s)) as limit:
                    answer = send()
            except NO_ANSWER as error:
                # A server that takes its time is not helped by being asked again, and its
                # certificate stays what it is.
                final = isinstance(error, requests.ReadTimeout | requests.exceptions.SSLError)
                wait = None if limit.is_over or final else next(waits, None)
                if wait is None:
                    waited_s = limit.seconds if limit.is_over else timeout_s
                    raise self._unreachable(f"{method} {path}", waited_s, error) from error
                time.sleep(wait)
                continue
            except CANNOT_ASK as error:
                raise self._unreachable(f"{method} {path}", timeout_s, error) from error
            if answer.status_code in AWAY and (wait := next(waits, None)) is not None:
                answer.close()
                time.sleep(wait)
                continue
            # Our clock may be wrong about the token's age. A 401 means that nothing was done, so
            # repeating a POST is harmless too.
            if answer.status_code == 401 and self._token.personal and not renewed:
                answer.close()
                self._token.forget()
                renewed = True
                continue
            return answer

    def _session(self) -> requests.Session:
        """This thread's session; a child process must not write into its parent's sockets."""
        if getattr(self._local, "process", None) != os.getpid():
            self._local.session = session_for(self.url)
            self._local.process = os.getpid()
            self._sessions.add(self._local.session)
        return cast(requests.Session, self._local.session)

    def _unreachable(self, what: str, timeout_s: float, error: Exception) -> StudioUnreachable:
        # requests and urllib3 wrap the cause, and quote it.
        untrusted = re.search(r"certificate verify failed: ([^(]+)", str(error))
        if untrusted is not None:
            return StudioUnreachable(
                f"The certificate of Label Studio at {self.url} is not trusted here "
                f"({short(untrusted[1].strip(), 200)}): set REQUESTS_CA_BUNDLE to the file of the "
                "authority (or of the self-signed certificate itself) that made it, and start us "
                "again."
            )
        if isinstance(error, requests.exceptions.SSLError):
            return StudioUnreachable(
                f"No TLS connection to Label Studio at {self.url}: does it speak https there, and "
                f"is LABEL_STUDIO_URL right? ({short(str(error)[-200:], 200)})"
            )
        if not isinstance(error, NO_ANSWER):
            reason = short(
                re.sub(r"//[^/]*@", "//", str(error)), 200
            )  # a proxy's may hold a password
            return StudioUnreachable(
                f"Label Studio at {self.url} cannot be asked{by_proxy(self.url)} "
                f"({reason}): correct LABEL_STUDIO_URL, REQUESTS_CA_BUNDLE, or the "
                "proxy, which must be http or https."
            )
        return StudioUnreachable(
            f"Label Studio at {self.url} did not answer {_bare(what)} within {timeout_s:g} s "
            f"({type(error).__name__}{by_proxy(self.url)}): is it running, and is "
            "LABEL_STUDIO_URL right?"
        )

    def _refusal(self, method: str, path: str, answer: requests.Response) -> StudioRefused:
        # A server under test or in between may echo what it was sent.
        detail = self._token.hide(_detail(answer))
        status = answer.status_code
        path = _bare(path)
        # The API answers JSON, its errors too.
        strange = path.startswith("/api/") and not _is_json(answer)
        if status == 407:
            text = (
                f"The proxy wants a user and a password (407){by_proxy(self.url)}: write them into "
                "that variable, as http://user:password@host:port."
            )
        elif status in (401, 403) and strange:
            text = (
                f"{self.url}{path} answered {status} with {_not_json(answer)}, not as Label Studio "
                "does: a proxy before it wants a login of its own. Let requests with a token to "
                "/api/ and /data/ pass it, or set LABEL_STUDIO_URL to Label Studio's address "
                "behind it."
            )
        elif status == 401 and "legacy token authentication has been disabled" in detail:
            text = (
                "Label Studio takes no legacy tokens any more: make a personal access token "
                "under Account & Settings and set LABEL_STUDIO_API_KEY to it (or an owner turns "
                "legacy tokens on again under Organization > API Tokens Settings)."
            )
        elif status == 401:
            text = (
                f"Label Studio at {self.url} does not know our token ({detail}): set "
                "LABEL_STUDIO_API_KEY to a token shown under Account & Settings."
            )
        elif status == 413:
            text = (
                f"Label Studio at {self.url} or a proxy before it answered 413 to {method} {path}: "
                f"{detail}. It refuses so large a request: let the proxy take 200 MB, in nginx by "
                "`client_max_body_size 200m;`."
            )
        elif status == 404 and strange:
            text = (
                f"{self.url}{path} answered 404, and not as Label Studio does: does "
                "LABEL_STUDIO_URL lack the path that Label Studio lives under (as https://host/label-studio)?"
            )
        elif status == 403:
            text = f"Label Studio does not allow our user {method} {path}: {detail}"
        else:
            text = f"Label Studio answered {status} to {method} {path}: {detail}"
        return StudioRefused(text, status)


class _Token(AuthBase):
    """The header that a request needs. Being an ``auth``, it keeps a .netrc out."""

    def __init__(self, studio: StudioHttp, api_key: str) -> None:
        self.personal = api_key.count(".") == 2
        self._studio = studio
        self._api_key = api_key
        self._lock = threading.Lock()
        self._access: str | None = None
        self._stale_at = 0.0

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        scheme, token = ("Bearer", self._fresh()) if self.personal else ("Token", self._api_key)
        request.headers["Authorization"] = f"{scheme} {token}"
        return request

    def hide(self, text: str) -> str:
        """``text`` without our tokens."""
        for token in (self._api_key, self._access):
            text = text.replace(token, "***") if token else text
        return text

    def forget(self) -> None:
        """Exchange the token again before the next request."""
        with self._lock:
            self._access = None

    def _fresh(self) -> str:
        with self._lock:
            if self._access is None or time.monotonic() > self._stale_at:
                self._access = self._exchange()
                self._stale_at = time.monotonic() + _lifetime_s(self._access) - REFRESH_BEFORE_S
            return self._access

    def _exchange(self) -> str:
        studio = self._studio
        path = "/api/token/refresh/"
        try:
            with session_for(studio.url) as session:
                answer = session.post(
                    studio.url + path,
                    json={"refresh": self._api_key},
                    # Without an auth of our own requests would look into .netrc.
                    auth=no_auth,
                    timeout=(CONNECT_TIMEOUT_S, studio.timeout_s),
                    allow_redirects=False,
                )
        except (*NO_ANSWER, *CANNOT_ASK) as error:
            raise studio._unreachable(f"POST {path}", studio.timeout_s, error) from error
        if answer.status_code in (400, 401) and _is_json(answer):
            raise StudioRefused(
                "Label Studio does not take our personal access token "
                f"({self.hide(_detail(answer))}): it "
                "was revoked or has expired. Make a new one under Account & Settings and set "
                "LABEL_STUDIO_API_KEY to it.",
                401,
            )
        return str(studio._decoded("POST", path, answer)["access"])


def session_for(url: str) -> LimitedSession:
    """A session for ``url``: by the environment's proxy, but never to this machine itself."""
    session = LimitedSession()
    if _stays_here(url):
        # HTTP_PROXY without NO_PROXY would send our own servers' requests to the proxy.
        session.trust_env = False
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        session.verify = bundle or True
    return session


def _stays_here(url: str) -> bool:
    """Whether ``url`` names this machine by ``localhost`` or a loopback address."""
    host = urlsplit(url).hostname or ""
    return is_loopback(host) or host.endswith(".localhost")


def proxy_for(url: str) -> str | None:
    """The proxy of the environment by which ``url`` is asked; None where none is."""
    return None if _stays_here(url) else select_proxy(url, get_environ_proxies(url))


def by_proxy(url: str) -> str:
    """Which variable sends what we ask of ``url`` to which proxy; "" where none does."""
    proxy = proxy_for(url)
    if not proxy:
        return ""
    names = [
        name
        for scheme in (f"{urlsplit(url).scheme}_proxy", "all_proxy")
        for name in (scheme, scheme.upper())
        if os.environ.get(name) == proxy
    ]
    shown = re.sub(r"//[^/]*@", "//", proxy)
    named = f" of {names[0]}" if names else ""
    return f" by the proxy {shown}{named}; NO_PROXY={urlsplit(url).hostname} goes without it"


def _redirected(url: str, path: str, location: str) -> str:
    """What to do where a proxy redirects Label Studio's API, which never does so itself."""
    # The query of a login page may hold a secret.
    to = re.sub(r"//[^/]*@", "//", urljoin(url + path, location).partition("?")[0])
    if to.endswith(path):
        return f"{url} redirects {path} to {to}: set LABEL_STUDIO_URL to {to.removesuffix(path)}."
    return (
        f"{url} redirects {path} to {to}: set LABEL_STUDIO_URL to the address that Label Studio "
        "itself has. If this is the login page of a proxy, let requests with a token to /api/ and "
        "/data/ pass it."
    )


def _is_json(answer: requests.Response) -> bool:
    return answer.content.lstrip()[:1] in (b"{", b"[", b'"')


def _not_json(answer: requests.Response) -> str:
    """What came in place of JSON, with a page's title."""
    title = re.search(rb"<title[^>]*>([^<]*)", answer.content[:20_000], re.IGNORECASE)
    page = "" if title is None else f", {shorten(title[1].decode(errors='replace').strip())}"
    return f"something other than JSON{page}"


def no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no credentials: with an ``auth`` given, requests leaves the .netrc unread."""
    return request


def _lifetime_s(access: str) -> float:
    """Seconds that an access token lives, by the server's own clock; 300 if it does not say."""
    payload = access.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"]) - float(claims["iat"])
    except (binascii.Error, ValueError, KeyError):
        return 300.0


def _bare(path: str) -> str:
    """``path`` without its query."""
    return path.partition("?")[0]


def _detail(answer: requests.Response) -> str:
    """What Label Studio says went wrong, in at most 500 characters."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return f"{len(answer.content)} bytes that are not JSON"
    if isinstance(body, dict):
        problems = body.get("validation_errors") or body.get("detail") or body
        return (problems if isinstance(problems, str) else json.dumps(problems))[:500]
    return json.dumps(body)[:500]
