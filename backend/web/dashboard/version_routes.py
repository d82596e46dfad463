"""The pages of the versions, and what can be done there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flask import Blueprint, Response, g, redirect, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from backend.actions.named import ACTIONS
from backend.errors import BackendError, BadRequest
from backend.insight.version_list import compare_versions, sheet_of, version_rows
from backend.shorten import shorten
from backend.web.dashboard.access import Visitor
from backend.web.dashboard.desk import NUMBER, PROJECT, Desk
from backend.web.dashboard.frame import HEADERS, page, refuse_page
from backend.web.dashboard.pictures import class_colours
from training.errors import TrainingError

FORM_BYTES = 8 * 1024
"""Of a form: a version, and its token."""

SHOWN_VERSIONS = 20


def add_versions(pages: Blueprint, desk: Desk) -> None:
    work = desk.work

    @pages.get(f"{PROJECT}/versions")
    def versions(number: int) -> Response:
        row, found = desk.project(number)
        shown = SHOWN_VERSIONS if "all" not in request.args else None
        rows = version_rows(work, row, shown)
        ranks = next((each.number for each in rows if each.ranks), 0)
        return page(
            "versions.html",
            project=found,
            here="versions",
            versions=rows,
            more=shown is not None and len(rows) == shown,
            ranks=ranks,
            actions=ACTIONS,
        )

    @pages.get(f"{PROJECT}/versions/<{NUMBER}:version>/sheet.png")
    def sheet(number: int, version: int) -> Response:
        row = desk.row(number)
        answer = Response(sheet_of(work, row, version), mimetype="image/png", headers=HEADERS)
        # A version never changes; but the project may be forgotten, and its number come again.
        answer.headers["Cache-Control"] = "private, max-age=600"
        return answer

    @pages.get(f"{PROJECT}/versions/compare")
    def compare(number: int) -> Response:
        row, found = desk.project(number)
        pair = compare_versions(work, row, _number("left"), _number("right"))
        return page(
            "compare.html",
            project=found,
            here="versions",
            pair=pair,
            colours=class_colours(pair.same_classes, unknown=True),
            studio_url=desk.studio_url(),
        )


def add_actions(pages: Blueprint, desk: Desk) -> None:
    """Each is asked for once more before it is done, and written down."""

    @pages.get(f"{PROJECT}/do/<name>")
    def ask(number: int, name: str) -> Response:
        _row, found = desk.project(number)
        asked = _asked(name, request.args)
        return page(
            "ask.html",
            project=found,
            here="versions",
            asked=asked,
            action=ACTIONS[name],
            token=desk.access.token(g.visitor, asked.form(number)),
        )

    @pages.post(f"{PROJECT}/do/<name>")
    def act(number: int, name: str) -> AnyResponse:
        row, actions = desk.row(number), desk.work.ledger.actions
        request.max_content_length = FORM_BYTES
        asked = _asked(name, request.form)
        visitor: Visitor = g.visitor
        if not visitor.may_act:
            return refuse_page(f"The login {visitor.login} may only read.", 403)
        if not desk.access.allows(visitor, asked.form(number), request.form.get("token", "")):
            message = "The page was open for too long, or another page sent this: ask once more."
            return refuse_page(message, 403)
        record = actions.begin(
            row.id, name, who=visitor.person, login=visitor.login, version=asked.version
        )
        try:
            outcome = ACTIONS[name].run(desk.work, number, asked.version)
        except Exception as error:
            told = isinstance(error, BackendError | TrainingError)
            actions.end(
                record, f"Refused: {error}" if told else "It failed; the web's log says why."
            )
            raise
        actions.end(record, outcome)
        return redirect(f"/projects/{number}/versions#done", 303)


@dataclass(frozen=True)
class Asked:
    """An action that somebody asks for, and the version that it is done to."""

    name: str
    version: int | None

    def form(self, number: int) -> str:
        """What its form's token is bound to."""
        return f"{number} {self.name} {self.version or ''}"


def _asked(name: str, given: Mapping[str, str]) -> Asked:
    if name not in ACTIONS:
        raise NotFound
    if not ACTIONS[name].of_version:
        return Asked(name, None)
    return Asked(name, _whole_number("version", given.get("version", "")))


def _number(name: str) -> int:
    return _whole_number(name, request.args.get(name, ""))


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise BadRequest(f"{name} must be the number of a version, got {shorten(text)}.")
    return int(text)
