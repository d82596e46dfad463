"""The page of labels to look at again, and pictures of labelled images."""

from __future__ import annotations

from typing import cast, get_args

from flask import Blueprint, Response
from werkzeug.exceptions import NotFound

from backend.insight.label_list import SHOWN, label_list
from backend.insight.label_text import describe_judged
from backend.insight.labelled_picture import LabelledLayer, labelled_picture
from backend.web.dashboard.desk import NUMBER, PROJECT, Desk
from backend.web.dashboard.frame import page, picture_answer
from backend.web.dashboard.pictures import SIDES_PX, class_colours


def add_labels(pages: Blueprint, desk: Desk) -> None:
    work = desk.work

    @pages.get(f"{PROJECT}/labels")
    def labels(number: int) -> Response:
        row, shown = desk.project(number)
        found = label_list(work.ledger, row)
        return page(
            "labels.html",
            project=shown,
            here="labels",
            found=found,
            judged=describe_judged(found),
            most=SHOWN,
            classes=class_colours(found.classes, unknown=True),
            studio_url=desk.studio_url(),
        )

    @pages.get(f"{PROJECT}/versions/<{NUMBER}:version>/<{NUMBER}:task>/<layer>-<int:side>.webp")
    def labelled(number: int, version: int, task: int, layer: str, side: int) -> Response:
        row = desk.row(number)
        if layer not in get_args(LabelledLayer) or side not in SIDES_PX:
            raise NotFound
        data = desk.labelled.get(
            (row.id, version, task, layer, side),
            lambda: labelled_picture(work, row, version, task, cast(LabelledLayer, layer), side),
        )
        return picture_answer(data)
