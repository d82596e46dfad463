"""The pages that show what was learnt: Learning, Classes, Measures."""

from __future__ import annotations

from flask import Blueprint, Response

from backend.insight.class_list import class_list
from backend.insight.explain import explain
from backend.insight.explain_text import describe_reasons
from backend.insight.learning import learning
from backend.web.dashboard.curves import (
    MEASURE_WORDS,
    class_charts,
    effort_chart,
    quality_chart,
    reliability_chart,
    times_chart,
    weights_chart,
)
from backend.web.dashboard.desk import PROJECT, Desk
from backend.web.dashboard.frame import page
from backend.web.dashboard.pictures import class_colours

EVEN = 0.005
"""Shares of the measures that differ by less are called the same."""


def add_curves(pages: Blueprint, desk: Desk) -> None:
    work = desk.work

    @pages.get(f"{PROJECT}/learning")
    def learning_page(number: int) -> Response:
        row, shown = desk.project(number)
        found = learning(work.ledger, row.id)
        return page(
            "learning.html",
            project=shown,
            here="learning",
            found=found,
            quality=quality_chart(found),
            classes=class_charts(found),
            effort=effort_chart(found),
            times=times_chart(found),
        )

    @pages.get(f"{PROJECT}/classes")
    def classes(number: int) -> Response:
        row, shown = desk.project(number)
        version = work.ledger.versions.promoted(row.id)
        found = None if version is None else class_list(version)
        return page(
            "classes.html",
            project=shown,
            here="classes",
            found=found,
            chart=None if found is None else reliability_chart(found),
            colours=class_colours([] if version is None else version.classes[1:], unknown=True),
            studio_url=desk.studio_url(),
        )

    @pages.get(f"{PROJECT}/measures")
    def measures(number: int) -> Response:
        _row, shown = desk.project(number)
        found = explain(work, number)
        queues = found.queues
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
            reasons=describe_reasons(found),
        )
