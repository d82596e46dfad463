"""The pages of the queue and its pictures."""

from __future__ import annotations

from typing import cast, get_args

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from backend.errors import BadRequest
from backend.insight.explain_text import WHYS
from backend.insight.queue_list import places_to_ask, queue_list
from backend.insight.task_picture import Layer, task_picture
from backend.ledger import Place, Project, Publication
from backend.web.dashboard.desk import NUMBER, PROJECT, Desk
from backend.web.dashboard.frame import page, picture_answer
from backend.web.dashboard.pictures import SIDES_PX, class_colours
from backend.web.dashboard.words import SHORT_WHYS
from backend.workplace import Workplace


def add_queue(pages: Blueprint, desk: Desk) -> None:
    work = desk.work

    @pages.get(f"{PROJECT}/queue")
    def queue(number: int) -> Response:
        row, shown = desk.project(number)
        serving = work.ledger.publications.serving(row.id)
        found = None
        if serving is not None:
            ids = places_to_ask(work.ledger, serving)
            states = desk.studio.tasks(number, ids)
            found = queue_list(work.ledger, serving, states)
        skipped = desk.studio.skipped(number) if "skipped" in request.args else None
        return page(
            "queue.html",
            project=shown,
            here="queue",
            queue=found,
            whys=WHYS,
            short=SHORT_WHYS,
            skipped=skipped,
            unsure="unsure" in request.args,
            studio_url=desk.studio_url(),
        )

    @pages.get(f"{PROJECT}/queue/<{NUMBER}:task>")
    def queue_task(number: int, task: int) -> Response:
        row, shown = desk.project(number)
        serving, place = _place(work, row, task)
        version = work.ledger.versions.get(row.id, serving.version)
        return page(
            "task.html",
            project=shown,
            here="queue",
            publication=serving,
            place=place,
            why=WHYS[place.why],
            classes=class_colours([] if version is None else version.classes[1:]),
            studio_url=desk.studio_url(),
        )

    @pages.get(f"{PROJECT}/queue/<{NUMBER}:task>/<layer>-<int:side>.webp")
    def picture(number: int, task: int, layer: str, side: int) -> Response:
        row = desk.row(number)
        serving, _place_of_task = _place(work, row, task)
        if layer not in get_args(Layer) or side not in SIDES_PX:
            raise NotFound
        data = desk.pictures.get(
            (serving.id, task, layer, side),
            lambda: task_picture(work, row, serving, task, cast(Layer, layer), side),
        )
        return picture_answer(data)


def _place(work: Workplace, row: Project, task: int) -> tuple[Publication, Place]:
    """A task's place in the queue that serves: pictures are shown of these alone."""
    serving = work.ledger.publications.serving(row.id)
    place = None if serving is None else work.ledger.publications.place_of(serving.id, task)
    if serving is None or place is None:
        raise BadRequest(f"Task {task} is not in the queue (any more).")
    return serving, place
