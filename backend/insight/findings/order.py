"""Checks that Label Studio serves the ranking, made by the version that was saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from backend.actions.rounds import retrain
from backend.fallback import damage_of, describe_damage, whole_version
from backend.insight.findings.case import ProjectCase
from backend.insight.findings.finding import FIX_BY_DOCTOR, Finding, Fix
from backend.label_studio.queue_order import BY_RANK, ORDERING, VIEW_TITLE, WITHOUT_MODEL, set_order
from backend.ledger import Publication
from backend.workplace import Workplace

PASSED_OVER = 10
"""Each annotator holds one task, so more than this have another cause."""


def check_order(case: ProjectCase) -> Iterator[Finding]:
    """Sampling and model_version, which only together serve the ranking."""
    project, serving = case.project, case.serving
    if case.known is None:
        return
    if serving is None:
        if project.sampling != WITHOUT_MODEL:
            yield case.warning(
                "sampling-without-model",
                f"Nothing is ranked yet, and the sampling is {project.sampling!r} instead of "
                f"{WITHOUT_MODEL!r}: the first labels will be no fair sample.",
                FIX_BY_DOCTOR,
                fixable=True,
            )
        return
    if project.sampling != BY_RANK:
        yield case.error(
            "sampling-off",
            f"The sampling is {project.sampling!r} instead of {BY_RANK!r}: the ranking is ignored.",
            FIX_BY_DOCTOR,
            fixable=case.stored > 0,
        )
    if project.model_version != serving.name and not _being_published(case):
        yield case.error(
            "order-random",
            f"The project's model_version is {project.model_version!r} but {serving.name} "
            "serves: Label Studio finds no scores and serves tasks at random, silently.",
            FIX_BY_DOCTOR,
            fixable=case.stored > 0,
        )
    if project.sampling == BY_RANK and project.model_version == serving.name:
        yield case.ok("order", f"Label Studio serves the ranking of {serving.name}.")


def _being_published(case: ProjectCase) -> bool:
    """A publication that Label Studio serves already and our ledger will in a moment."""
    assert case.known is not None  # a publication serves
    return any(
        p.name == case.project.model_version and p.state == "prepared"
        for p in case.work.ledger.publications.all(case.known.id)
    )


def check_predictions(case: ProjectCase) -> Iterator[Finding]:
    """Predictions that Label Studio dropped when they came, or lost since."""
    serving = case.serving
    if serving is None:
        return
    length, at_first = serving.length, serving.stored
    if case.stored == 0 and length > 0:
        yield case.error(
            "predictions-gone",
            f"Label Studio holds no prediction of {serving.name} any more: nothing is ranked "
            "and nothing pre-annotated.",
            "Run `python -m backend doctor --fix`: it has the pool ranked anew.",
            fixable=True,
        )
    elif at_first is not None and at_first < length:
        yield case.error(
            "predictions-dropped",
            f"Label Studio stored {at_first} of {length} predictions of {serving.name} and "
            "silently dropped the rest.",
            "Usual causes are labels renamed while a round ran, and tasks deleted: "
            f"`python -m backend retrain --project {case.id}` publishes anew.",
        )
    elif case.stored < length:
        yield from _lost_since(case, serving)


def _lost_since(case: ProjectCase, serving: Publication) -> Iterator[Finding]:
    """Predictions that are missing of tasks that still exist."""
    ranked = [place.task_id for place in case.work.ledger.publications.ranking(serving.id)]
    present = sum(1 for _ in case.studio.tasks(case.id, ranked))
    if case.stored < present:
        yield case.error(
            "predictions-dropped",
            f"Label Studio holds {case.stored} predictions of {serving.name} for {present} "
            "ranked tasks: somebody deleted some.",
            f"`python -m backend retrain --project {case.id}` publishes anew.",
        )


def check_version(case: ProjectCase) -> Iterator[Finding]:
    """Whether the version that ranks is what was saved."""
    known = case.known
    promoted = None if known is None else case.work.ledger.versions.promoted(known.id)
    if known is None or promoted is None:
        return
    number = promoted.number
    damage = damage_of(case.work, known, number)
    if damage is None:
        yield case.ok("version", f"The files of version {number} are what was saved.")
        return
    yield case.error(
        "version-damaged",
        describe_damage(number, damage, whole_version(case.work, known, number)),
        f"Restore its folder from a backup, or `python -m backend retrain --project {case.id}`.",
        fixable=True,
    )


def check_overlap(case: ProjectCase) -> Iterator[Finding]:
    """Several annotations for each task change the order."""
    if case.project.maximum_annotations > 1:
        yield case.warning(
            "overlap",
            f"Each task wants {case.project.maximum_annotations} annotations: Label Studio serves "
            "half-done tasks first, whatever the ranking.",
            "Set Annotations per task to 1 in Settings > Quality where the order matters more.",
        )


def check_locks(case: ProjectCase) -> Iterator[Finding]:
    """Tasks passed over: locks cannot be read by API, but this trace of them can."""
    yield case.ok(
        "locks",
        "A task that was served stays with its annotator for 24 h, whatever the ranking, unless "
        "TASK_LOCK_TTL (seconds, in Label Studio's environment) says otherwise.",
    )
    if case.serving is None:
        return
    ranked = case.work.ledger.publications.ranking(case.serving.id)
    labelled = [place.position for place in ranked if place.task_id in case.stamps]
    if len(labelled) < PASSED_OVER:
        return
    middle = median(labelled)
    passed = sum(place.position < middle and place.task_id not in case.stamps for place in ranked)
    if passed > PASSED_OVER:
        yield case.warning(
            "passed-over",
            f"{passed} tasks ranked before the middle one of the {len(labelled)} labelled are "
            "still unlabelled: long locks hold them, or people label outside the queue.",
            'Open tasks by "Label All Tasks", not "Label Tasks As Displayed" of another view or a '
            "bookmark; start Label Studio with a shorter TASK_LOCK_TTL, such as 3600.",
        )


def check_view(case: ProjectCase) -> Iterator[Finding]:
    """The shared view in the ranking's order, for those who label from a view."""
    views = [v["data"] for v in case.studio.views(case.id) if v["data"].get("title") == VIEW_TITLE]
    if not views:
        what = f"The shared view {VIEW_TITLE!r} is missing."
        yield case.warning("view-missing", what, FIX_BY_DOCTOR, fixable=True)
    elif all((data.get("ordering") or [])[:1] != ORDERING for data in views):
        what = f"The shared view {VIEW_TITLE!r} is not in the ranking's order."
        yield case.warning("view-order", what, FIX_BY_DOCTOR, fixable=True)


def _set_order(work: Workplace, studio_id: int) -> str:
    project = work.ledger.projects.of_studio(work.server, studio_id)
    serving = work.ledger.publications.serving(project.id)
    set_order(work.studio, studio_id, None if serving is None else serving.name)
    if serving is None:
        return f"Project {studio_id}: tasks are served uniformly until the first ranking."
    return f"Project {studio_id}: tasks are served in the order of {serving.name}."


def _rank_again(work: Workplace, studio_id: int) -> str:
    """The next check makes a ranking where there is a version and nothing serves."""
    project = work.ledger.projects.of_studio(work.server, studio_id)
    serving = work.ledger.publications.serving(project.id)
    if serving is not None:
        work.ledger.publications.set_state(serving.id, "failed")
    set_order(work.studio, studio_id, None)
    work.ledger.events.add(project.id, "PREDICTIONS_GONE")
    return f"Project {studio_id}: the pool is ranked anew within a minute; see `status`."


def _retrain(work: Workplace, studio_id: int) -> str:
    retrain(work, studio_id)
    return f"Project {studio_id}: a round makes another version; see `status`."


FIXES: Mapping[str, Fix] = {
    **dict.fromkeys(
        ("sampling-without-model", "sampling-off", "order-random", "view-missing", "view-order"),
        _set_order,
    ),
    "predictions-gone": _rank_again,
    "version-damaged": _retrain,
}
