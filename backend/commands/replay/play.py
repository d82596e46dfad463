"""Play a labelled folder through the live system, as an annotator would.

Everything goes through Label Studio's own API: a project, the images, annotations one by one,
and the next task as Label Studio serves it. What an annotator would draw is read from the
folder's masks. After each round the promoted version is tested on a fixed fifth of the images,
which Label Studio never gets.

For the random order the same is done in a second project, except that the tasks are drawn by
chance. Both begin with the same images; since folds go by task id, even their first versions
differ a little.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from backend.actions.connect import disconnect_project
from backend.commands.replay.annotator import Annotator, ReplayFailed, Report, open_project
from backend.commands.replay.curves import Curve, Point, ReplayResult, quality
from backend.commands.replay.plan import ReplayPlan, check_running, project_options, unknown_label
from backend.label_studio.control import SLOW, control_of
from backend.ledger import Round
from backend.workplace import Workplace
from training.datasets.labelled import (
    BadFolder,
    Labelled,
    LabelledFolder,
    check_masks,
    read_image,
    read_labelled_folder,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.quality.metrics import Overlap

POLL_S = 1.0
REPORT_AGAIN_S = 30.0


def replay(work: Workplace, plan: ReplayPlan, report: Report) -> ReplayResult:
    """Play the plan on the running system; takes as long as its rounds do.

    Args:
        report: gets a line of progress now and then.

    Raises:
        BadFolder: the folder is not what it should be; nothing was made.
        BadRequest: the plan does not fit the folder, or no process of Committee is running.
        ReplayFailed: a round failed or did not come in time; the project stays for inspection.
        StudioUnreachable, StudioRefused: from the client.
    """
    folder = read_labelled_folder(plan.folder)
    check_masks(folder)
    training, held_back = folder.split()
    training = training[: plan.limit]
    plan.check(len(training))
    project_options(plan, unknown_label(folder.classes))
    check_running(work)
    report(
        f"{len(training)} images to learn from, {len(held_back)} held back, "
        f"classes {', '.join(folder.classes[1:])}"
    )
    curves: list[Curve] = []
    for order in plan.orders:
        annotator = open_project(work, plan, folder, training, order, report)
        curves.append(_play(annotator, held_back))
    if plan.purge:
        for curve in curves:
            disconnect_project(work, curve.project, purge=True)
            control_of(work.studio).projects.delete(curve.project, request_options=SLOW)
    return ReplayResult(
        folder=folder.root.resolve().name,
        classes=folder.classes,
        training=len(training),
        held_back=len(held_back),
        deleted=plan.purge,
        curves=tuple(curves),
    )


def _play(annotator: Annotator, held_back: Sequence[Labelled]) -> Curve:
    plan, report, order = annotator.plan, annotator.report, annotator.order
    points: list[Point] = []
    for number in range(1, plan.rounds + 1):
        former = annotator.work.ledger.rounds.last(annotator.project_id, kind="train")
        started_at = time.time()
        served = mismatches = 0
        if number == 1:
            annotator.label_initial()
        else:
            served, mismatches = annotator.label_more()
        submitted_at = time.time()
        label_s = submitted_at - started_at
        report(f"{order} round {number}: {len(annotator.labelled)} labels, in {label_s:.1f} s")
        round_ = _await_round(annotator, number, after=0 if former is None else former.id)
        seconds = {
            "label": label_s,
            "wait": max(0.0, round_.started_at - submitted_at),
            **round_.timings,
        }
        point = _test(annotator, held_back, number, round_, seconds, served, mismatches)
        report(
            f"{order} round {number}: version {point.version} has mean IoU "
            f"{point.mean_iou:.3f} and Dice {point.mean_dice:.3f} on the held-back images"
        )
        points.append(point)
    return Curve(order, annotator.project, annotator.title, tuple(points))


# Waiting


def _await_round(annotator: Annotator, number: int, *, after: int) -> Round:
    """The training round, later than round ``after``, that used every label; once it ended well.

    Raises:
        ReplayFailed: it failed, or did not end in time.
    """
    deadline = time.monotonic() + annotator.plan.round_limit_s
    reported, reported_at, asked_for = "", 0.0, after
    while True:
        ended = _ended_round(annotator, after)
        if ended is not None:
            if not set(annotator.labelled) - {entry["task"] for entry in ended.manifest or ()}:
                return ended
            if ended.id > asked_for:
                # It began while we were still labelling: what is left may be too few for another.
                annotator.work.ledger.events.add(annotator.project_id, "RETRAIN")
                asked_for = ended.id
        now = _current_stage(annotator)
        if now != reported or time.monotonic() - reported_at > REPORT_AGAIN_S:
            annotator.report(f"{annotator.order} round {number}: {now}")
            reported, reported_at = now, time.monotonic()
        if time.monotonic() > deadline:
            raise ReplayFailed(
                f"Round {number} did not end within {annotator.plan.round_limit_s:g} s ({now}): "
                "`python -m backend status` says more, --round-limit gives it longer."
            )
        time.sleep(POLL_S)


def _ended_round(annotator: Annotator, after: int) -> Round | None:
    """The last training round, if it is later than round ``after`` and has ended well."""
    round_ = annotator.work.ledger.rounds.last(annotator.project_id, kind="train")
    if round_ is None or round_.id <= after or round_.state == "active":
        return None
    if round_.state == "failed":
        raise ReplayFailed(
            f"Round {round_.id} of project {annotator.project} failed: {round_.error}"
        )
    return round_


def _current_stage(annotator: Annotator) -> str:
    """What the system does for this project now, in steps coarse enough to be a line each."""
    ledger = annotator.work.ledger
    active = ledger.rounds.active(annotator.project_id)
    if active is None:
        error = ledger.projects.get(annotator.project_id).last_error
        return "waiting for the round to start" + (f" (last error: {error})" if error else "")
    parts = ledger.parts.of_round(active.id, active.stage)
    done = sum(part.state == "done" for part in parts)
    of = f", {done} of {len(parts)} jobs done" if len(parts) > 1 else ""
    return f"{active.stage}{of}"


# Testing


class Predicted(Protocol):
    """What ``Committee.predict`` returns, as far as testing needs it."""

    def mask(self) -> NDArray[np.uint8]: ...


class Predicts(Protocol):
    """A committee, as far as testing needs one."""

    def predict(self, image: NDArray[np.uint8], /) -> Predicted: ...


def _test(
    annotator: Annotator,
    held_back: Sequence[Labelled],
    number: int,
    round_: Round,
    seconds: Mapping[str, float],
    served: int,
    mismatches: int,
) -> Point:
    """The curve's point: what ranks after this round, tested on the held-back images."""
    ledger = annotator.work.ledger
    assert round_.version is not None  # every training round has one
    version = ledger.versions.promoted(annotator.project_id)
    if version is None:
        raise ReplayFailed(
            f"Round {round_.id} of project {annotator.project} left no promoted version: "
            "was one rolled back meanwhile?"
        )
    serving = ledger.publications.serving(annotator.project_id)
    started = time.monotonic()
    slug = ledger.projects.get(annotator.project_id).slug
    committee = annotator.work.registry.load(slug, version.number)
    iou, dice = quality(judge(committee, annotator.folder, held_back), annotator.folder.classes)
    test_s = time.monotonic() - started
    return Point(
        round=number,
        labels=len(annotator.labelled),
        made=round_.version,
        promoted=version.number == round_.version,
        version=version.number,
        publication=None if serving is None else serving.name,
        iou=iou,
        dice=dice,
        seconds={name: round(value, 3) for name, value in {**seconds, "test": test_s}.items()},
        served=served,
        mismatches=mismatches,
    )


def judge(committee: Predicts, folder: LabelledFolder, items: Sequence[Labelled]) -> Overlap:
    """Truth against the committee's masks, the pixels of all images together.

    Raises:
        BadFolder: an image or a mask cannot be used.
    """
    from training.quality.metrics import overlap

    counts = [
        overlap(
            folder.read_mask(item),
            committee.predict(_read_image(item)).mask(),
            len(folder.classes),
        )
        for item in items
    ]
    return sum(counts[1:], start=counts[0])


def _read_image(item: Labelled) -> NDArray[np.uint8]:
    from training.pixels import UnreadableImage

    try:
        return read_image(item.image)
    except UnreadableImage as error:
        raise BadFolder(f"{error}.") from error
