"""All pages of the dashboard: the overview and *Now* here, the others beside."""

from __future__ import annotations

from flask import Blueprint, Response, redirect, request
from flask.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response as AnyResponse

from backend.insight.next_step import STAGE_WORDS
from backend.insight.status import RoundStatus, process_status
from backend.ledger import Project
from backend.rounds.schedule import STAGES
from backend.web.dashboard.access import Access
from backend.web.dashboard.background import DoctorReport, DoctorWatch, StudioWatch
from backend.web.dashboard.curve_routes import add_curves
from backend.web.dashboard.desk import PROJECT, Desk
from backend.web.dashboard.frame import StaticFiles, page
from backend.web.dashboard.label_routes import add_labels
from backend.web.dashboard.queue_routes import add_queue
from backend.web.dashboard.version_routes import add_actions, add_versions
from backend.web.dashboard.words import FILTERS
from backend.workplace import Workplace

PREFIXES = ("/projects/", "/static/")

FAST_S, SLOW_S = 3, 30
"""How often a page renews itself: while a round runs, and else."""


def is_dashboard(path: str) -> bool:
    """Whether an address is one of the dashboard's."""
    return path == "/" or path.startswith(PREFIXES)


def dashboard(work: Workplace, access: Access) -> Blueprint:
    """All pages."""
    pages = Blueprint("dashboard", __name__, template_folder="templates")
    desk = Desk(work, access, StudioWatch(work), DoctorWatch(work.settings.data_dir))
    _add_files(pages)
    _add_overview(pages, desk)
    add_curves(pages, desk)
    add_queue(pages, desk)
    add_labels(pages, desk)
    add_versions(pages, desk)
    add_actions(pages, desk)
    return pages


def _add_files(pages: Blueprint) -> None:
    files = StaticFiles()

    @pages.record
    def set_up(state: BlueprintSetupState) -> None:
        environment = state.app.jinja_env
        environment.filters.update(FILTERS)
        environment.globals.update(files=files.urls, fast_s=FAST_S, slow_s=SLOW_S)
        environment.trim_blocks = environment.lstrip_blocks = True

    @pages.get("/static/<name>")
    def static_file(name: str) -> Response:
        return files.answer(name)


def _add_overview(pages: Blueprint, desk: Desk) -> None:
    work = desk.work

    @pages.get("/")
    def projects() -> AnyResponse:
        rows = _connected(work)
        if len(rows) == 1:
            return redirect(f"/projects/{rows[0].studio_id}/")
        found, workers = desk.statuses(rows)
        return page("projects.html", projects=found, workers=workers, studio=desk.studio.state())

    @pages.get(f"{PROJECT}/")
    def now(number: int) -> Response:
        row = desk.row(number)
        (found,), workers = desk.statuses([row])
        return page(
            "now.html",
            project=found,
            here="now",
            processes=[process_status(record) for record in work.ledger.processes.all()],
            workers=workers,
            stages=_stages(found.round),
            studio=desk.studio.state(),
            studio_url=desk.studio_url(),
            doctor=_of_project(desk.doctor.report(again="look" in request.args), number),
        )


def _connected(work: Workplace) -> list[Project]:
    rows = work.ledger.projects.all(connected_only=True, server=work.server)
    return [row for row in rows if not row.unconfirmed]


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
