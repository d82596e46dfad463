"""What all pages have: their template, headers, files, and errors as pages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from flask import Response, g, make_response, render_template
from werkzeug.exceptions import NotFound

from backend.web.dashboard.access import REALM

FOLDER = Path(__file__).parent

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    # "no-referrer" would have browsers send forms with the Origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

TITLES = {
    400: "That cannot be used",
    401: "Please log in",
    403: "That is not allowed",
    404: "There is no such page",
    405: "That is not how this page is asked",
    409: "Not now",
    429: "Please wait",
    503: "Not now",
}


class StaticFiles:
    """The files beside the pages, under names that change with what they hold."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str]] = {}
        self.urls: dict[str, str] = {}
        for path in sorted((FOLDER / "static").iterdir()):
            if path.suffix in TYPES:
                data = path.read_bytes()
                digest = hashlib.sha256(data).hexdigest()[:12]
                name = f"{path.stem}-{digest}{path.suffix}"
                self._files[name] = data, TYPES[path.suffix]
                self.urls[path.name] = f"/static/{name}"

    def answer(self, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            raise NotFound
        answer = Response(found[0], mimetype=found[1], headers=HEADERS)
        answer.headers["Cache-Control"] = "private, max-age=31536000, immutable"
        return answer


def page(template: str, status: int = 200, **values: object) -> Response:
    """A page for whoever asks now; nothing keeps it."""
    answer = make_response(render_template(template, visitor=g.get("visitor"), **values), status)
    answer.headers.update(HEADERS)
    answer.headers["Cache-Control"] = "no-store"
    return answer


def picture_answer(data: bytes) -> Response:
    """A WebP of what does not change while it is looked at."""
    answer = Response(data, mimetype="image/webp", headers=HEADERS)
    answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer


def refuse_page(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal as a page. Without a login it has no file beside it: that one would ask again."""
    title = TITLES.get(status, "Something went wrong")
    template = "refusal.html" if g.get("visitor") else "stranger.html"
    answer = page(template, status, title=title, message=message)
    answer.headers.update(headers or {})
    if status == 401:
        answer.headers["WWW-Authenticate"] = f'Basic realm="{REALM}", charset="UTF-8"'
    return answer
