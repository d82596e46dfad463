"""Project settings that work against the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backend.insight.findings.case import ProjectCase
from backend.insight.findings.finding import FIX_BY_DOCTOR, Finding, Fix
from backend.workplace import Workplace


def check_settings(case: ProjectCase) -> Iterator[Finding]:
    """What Label Studio shows, and asks us for by itself."""
    settings, fix = case.project.settings, FIX_BY_DOCTOR
    if (least := int(settings["min_annotations_to_start_training"] or 0)) > 0:
        what = f"Label Studio asks for training after every {least} annotations, inside a submit."
        yield case.warning("training-in-submit", what, fix, fixable=True)
    if not settings["show_collab_predictions"]:
        what = "Pre-annotations are not shown to annotators (show_collab_predictions is off)."
        yield case.error("predictions-hidden", what, fix, fixable=True)
    if settings["evaluate_predictions_automatically"]:
        what = "Every listing of tasks asks us for predictions first, which makes it slow."
        yield case.warning("predictions-in-listing", what, fix, fixable=True)


def _set_settings(work: Workplace, studio_id: int) -> str:
    work.studio.update_project(
        studio_id,
        min_annotations_to_start_training=0,
        show_collab_predictions=True,
        evaluate_predictions_automatically=False,
    )
    return (
        f"Project {studio_id}: pre-annotations are shown, and Label Studio asks for neither "
        "training nor predictions by itself."
    )


FIXES: Mapping[str, Fix] = dict.fromkeys(
    ("training-in-submit", "predictions-hidden", "predictions-in-listing"), _set_settings
)
