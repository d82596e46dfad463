"""The pages and their addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from flask import Blueprint, Response, g, redirect, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from backend.actions.named import ACTIONS
from backend.data_dir import announced_names
from backend.errors import BackendError, BadRequest
from backend.insight.class_list import class_list
from backend.insight.explain import explain
from backend.insight.explain_text import WHYS, describe_reasons
from backend.insight.learning import learning
from backend.insight.measure_weights import measure_weights
from backend.insight.next_step import STAGE_WORDS
from backend.insight.queue_list import places_to_ask, queue_list
from backend.insight.status import (
    ProjectStatus,
    RoundStatus,
    alive_workers,
    process_status,
    project_status,
)
from backend.insight.task_picture import Layer, task_picture
from backend.insight.version_list import compare_versions, sheet_of, version_rows
from backend.ledger import Place, Project, Publication
from backend.rounds.schedule import STAGES
from backend.shorten import shorten
from backend.web.dashboard.access import Access, Visitor
from backend.web.dashboard.background import DoctorReport, DoctorWatch, StudioWatch
from backend.web.dashboard.curves import (
    MEASURE_WORDS,
    class_charts,
    effort_chart,
    quality_chart,
    reliability_chart,
    weights_chart,
)
from backend.web.dashboard.frame import HEADERS, StaticFiles, page, refuse_page
from backend.web.dashboard.pictures import Pictures
from backend.web.dashboard.words import FILTERS, SHORT_WHYS
from backend.workplace import Workplace
from training.colours import class_colour

PREFIXES = ("/projects/", "/static/")

FORM_BYTES = 8 * 1024
"""Of a form: a version, and its token."""

SHOWN_VERSIONS = 20

SIDES_PX = (240, 720)
"""Long sides of pictures: in a list, and alone."""

EVEN = 0.005
"""Shares of the measures that differ by less are called the same."""

FAST_S, SLOW_S = 3, 30
"""How often a page renews itself: while a round runs, and else."""


def is_dashboard(path: str) -> bool:
    """Whether an address is one of the dashboard's."""
    return path == "/" or path.startswith(PREFIXES)


def dashboard(work: Workplace, access: Access) -> Blueprint:
    """All pages."""
    pages = Blueprint("dashboard", __name__, template_folder="templates")
    files, studio = StaticFiles(), StudioWatch(work)
    doctor, pictures = DoctorWatch(work.settings.data_dir), Pictures()

    @pages.record
    def set_up(state: BlueprintSetupState) -> None:
        environment = state.app.jinja_env
        environment.filters.update(FILTERS)
        environment.globals.update(files=files.urls, fast_s=FAST_S, slow_s=SLOW_S)
        environment.trim_blocks = environment.lstrip_blocks = True

    @pages.get("/static/<name>")
    def static_file(name: str) -> Response:
        return files.answer(name)

    @pages.get("/")
    def projects() -> AnyResponse:
        rows = _connected(work)
        if len(rows) == 1:
            return redirect(f"/projects/{rows[0].studio_id}/")
        found, workers = _statuses(work, rows)
        return page("projects.html", projects=found, workers=workers, studio=studio.state())

    @pages.get("/projects/<int:number>/")
    def now(number: int) -> Response:
        row = work.ledger.projects.of_studio(work.server, number)
        (found,), workers = _statuses(work, [row])
        return page(
            "now.html",
            project=found,
            here="now",
            processes=[process_status(record) for record in work.ledger.processes.all()],
            workers=workers,
            stages=_stages(found.round),
            studio=studio.state(),
            studio_url=studio_url(work),
            doctor=_of_project(doctor.report(again="look" in request.args), number),
        )

    @pages.get("/projects/<int:number>/learning")
    def learning_page(number: int) -> Response:
        row, shown = _project(work, number)
        found = learning(work.ledger, row.id)
        return page(
            "learning.html",
            project=shown,
            here="learning",
            found=found,
            quality=quality_chart(found),
            classes=class_charts(found),
            effort=effort_chart(found),
        )

    @pages.get("/projects/<int:number>/queue")
    def queue(number: int) -> Response:
        row, shown = _project(work, number)
        serving = work.ledger.publications.serving(row.id)
        found = None
        if serving is not None:
            ids = places_to_ask(work.ledger, serving)
            states = studio.tasks(number, ids)
            found = queue_list(work.ledger, serving, states)
        skipped = studio.skipped(number) if "skipped" in request.args else None
        return page(
            "queue.html",
            project=shown,
            here="queue",
            queue=found,
            whys=WHYS,
            short=SHORT_WHYS,
            skipped=skipped,
            studio_url=studio_url(work),
        )

    @pages.get("/projects/<int:number>/queue/<int:task>")
    def queue_task(number: int, task: int) -> Response:
        row, shown = _project(work, number)
        serving, place = _place(work, row, task)
        return page(
            "task.html",
            project=shown,
            here="queue",
            publication=serving,
            place=place,
            why=WHYS[place.why],
            classes=_class_colours(work, row, serving),
            studio_url=studio_url(work),
        )

    @pages.get("/projects/<int:number>/queue/<int:task>/<layer>-<int:side>.webp")
    def picture(number: int, task: int, layer: str, side: int) -> Response:
        row = work.ledger.projects.of_studio(work.server, number)
        serving, _place_of_task = _place(work, row, task)
        if layer not in get_args(Layer) or side not in SIDES_PX:
            raise NotFound
        data = pictures.get(
            (serving.id, task, layer, side),
            lambda: task_picture(work, row, serving, task, cast(Layer, layer), side),
        )
        answer = Response(data, mimetype="image/webp", headers=HEADERS)
        answer.headers["Cache-Control"] = "private, max-age=3600"
        return answer

    @pages.get("/projects/<int:number>/classes")
    def classes(number: int) -> Response:
        row, shown = _project(work, number)
        version = work.ledger.versions.promoted(row.id)
        found = None if version is None else class_list(version)
        return page(
            "classes.html",
            project=shown,
            here="classes",
            found=found,
            chart=None if found is None else reliability_chart(found),
        )

    @pages.get("/projects/<int:number>/measures")
    def measures(number: int) -> Response:
        row, shown = _project(work, number)
        queues = measure_weights(work.ledger, row.id)
        newest = queues[-1].weights if queues else {}
        leading = max(newest, key=lambda name: newest[name]) if any(newest.values()) else None
        return page(
            "measures.html",
            project=shown,
            here="measures",
            queues=queues,
            leading=leading,
            even=bool(newest) and max(newest.values()) - min(newest.values()) < EVEN,
            chart=weights_chart(queues),
            words=MEASURE_WORDS,
            reasons=describe_reasons(explain(work, number)),
        )

    @pages.get("/projects/<int:number>/versions")
    def versions(number: int) -> Response:
        row, found = _project(work, number)
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

    @pages.get("/projects/<int:number>/versions/<int:version>/sheet.png")
    def sheet(number: int, version: int) -> Response:
        row = work.ledger.projects.of_studio(work.server, number)
        answer = Response(sheet_of(work, row, version), mimetype="image/png", headers=HEADERS)
        # A version never changes; but the project may be forgotten, and its number come again.
        answer.headers["Cache-Control"] = "private, max-age=600"
        return answer

    @pages.get("/projects/<int:number>/versions/compare")
    def compare(number: int) -> Response:
        row, found = _project(work, number)
        pair = compare_versions(work, row, _number("left"), _number("right"))
        return page("compare.html", project=found, here="versions", pair=pair)

    @pages.get("/projects/<int:number>/do/<name>")
    def ask(number: int, name: str) -> Response:
        _row, found = _project(work, number)
        asked = _asked(name, request.args)
        return page(
            "ask.html",
            project=found,
            here="versions",
            asked=asked,
            action=ACTIONS[name],
            token=access.token(g.visitor, asked.form(number)),
        )

    @pages.post("/projects/<int:number>/do/<name>")
    def act(number: int, name: str) -> AnyResponse:
        row = work.ledger.projects.of_studio(work.server, number)
        request.max_content_length = FORM_BYTES
        asked = _asked(name, request.form)
        visitor: Visitor = g.visitor
        if not visitor.may_act:
            return refuse_page(f"The login {visitor.login} may only read.", 403)
        if not access.allows(visitor, asked.form(number), request.form.get("token", "")):
            message = "The page was open for too long, or another page sent this: ask once more."
            return refuse_page(message, 403)
        record = work.ledger.actions.begin(
            row.id, name, who=visitor.person, login=visitor.login, version=asked.version
        )
        try:
            outcome = ACTIONS[name].run(work, number, asked.version)
        except BackendError as error:
            work.ledger.actions.end(record, f"Refused: {error}")
            raise
        work.ledger.actions.end(record, outcome)
        return redirect(f"/projects/{number}/versions#done", 303)

    return pages


def _place(work: Workplace, row: Project, task: int) -> tuple[Publication, Place]:
    """A task's place in the queue that serves: pictures are shown of these alone."""
    serving = work.ledger.publications.serving(row.id)
    place = None if serving is None else work.ledger.publications.place_of(serving.id, task)
    if serving is None or place is None:
        raise BadRequest(f"Task {task} is not in the queue (any more).")
    return serving, place


def _class_colours(work: Workplace, row: Project, serving: Publication) -> list[tuple[str, str]]:
    """Name and colour of the classes that the version of a queue knows."""
    version = work.ledger.versions.get(row.id, serving.version)
    names = [] if version is None else version.classes[1:]
    return [(name, class_colour(index)) for index, name in enumerate(names, start=1)]


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


def _project(work: Workplace, number: int) -> tuple[Project, ProjectStatus]:
    row = work.ledger.projects.of_studio(work.server, number)
    return row, _statuses(work, [row])[0][0]


def studio_url(work: Workplace) -> str:
    """Label Studio's address in a browser: as it calls itself, which may not be as we reach it."""
    return next(iter(announced_names(work.settings.data_dir, work.server)), work.server)


def _connected(work: Workplace) -> list[Project]:
    rows = work.ledger.projects.all(connected_only=True, server=work.server)
    return [row for row in rows if not row.unconfirmed]


def _statuses(work: Workplace, rows: Sequence[Project]) -> tuple[list[ProjectStatus], int]:
    workers = alive_workers([process_status(record) for record in work.ledger.processes.all()])
    every = work.settings.retrain_every
    return [
        project_status(work.ledger, row, retrain_every=every, workers=workers) for row in rows
    ], workers


def _stages(shown: RoundStatus | None) -> list[dict[str, object]]:
    """The stages of a round: their names in plain words, whether each is done, and how long it
    took."""
    if shown is None:
        return []
    return [
        {
            "name": STAGE_WORDS[stage],
            "state": "now" if stage == shown.stage else "done" if stage in shown.timings else "",
            "seconds": shown.timings.get(stage),
        }
        for stage in STAGES[shown.kind]  # type: ignore[index]
    ]


def _of_project(report: DoctorReport, number: int) -> dict[str, object]:
    """The doctor's findings that matter to one project, problems apart from what is well."""
    found = [each for each in report.findings or () if each["project"] in (None, number)]
    worst_first = sorted(found, key=lambda each: each["severity"] != "error")
    return {
        "known": report.findings is not None,
        "problems": [each for each in worst_first if each["severity"] != "ok"],
        "well": [each for each in found if each["severity"] == "ok"],
        "at": report.at,
        "running": report.running,
        "problem": report.problem,
    }
