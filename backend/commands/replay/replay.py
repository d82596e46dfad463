"""Play a labelled folder through the live system, as an annotator would.

Everything goes through Label Studio's own API: a project, the images, annotations one by one,
and the next task as Label Studio serves it. What an annotator would draw is read from the
folder's masks. After each round the promoted version is tested on a fixed fifth of the images,
which Label Studio never sees.

For the random order the same is done in a second project, except that the tasks are drawn by
chance. Both begin with the same images; since folds go by task id, even their first versions
differ a little.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from xml.sax.saxutils import quoteattr

import click

from acquisition.masks import UNKNOWN
from backend.actions.connect import connect_project, disconnect_project
from backend.commands.replay.curves import Curve, Point, ReplayResult, describe, quality, write_csv
from backend.errors import BackendError, BadRequest
from backend.insight.status import SILENT_AFTER_S
from backend.label_studio.brush import encode
from backend.ledger.ledger import Row
from backend.options import parse_options
from backend.settings import load_settings
from backend.workplace import Workplace
from training.colours import class_colour
from training.datasets.labelled import (
    BadFolder,
    Labelled,
    LabelledFolder,
    read_image,
    read_labelled_folder,
)
from training.errors import TrainingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.quality.metrics import Overlap

Say = Callable[[str], None]
Json = dict[str, Any]

ORDERS = ("queue", "random")

FROM_NAME, TO_NAME, DATA_KEY = "tag", "image", "image"


# Label Studio takes these as they are; it refuses TIFF, which browsers do not show.
SHOWN_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})

# Label Studio's limit for a project's title.
TITLE_LENGTH = 50

POLL_S = 1.0
SAY_AGAIN_S = 30.0


class ReplayFailed(BackendError):
    """The live system did not do what the replay waited for."""


@dataclass(frozen=True)
class ReplayPlan:
    """What to play.

    Attributes:
        folder: images/, masks/, classes.txt.
        rounds: rounds of training in each order, the first on the initial set.
        per_round: labels between two rounds; the project's ``retrain_every`` too.
        initial: labels of the first round, drawn by chance; ``per_round`` if None.
        order: "queue", "random" or "both".
        limit: use at most this many images for learning.
        seed: of the initial set, the random order and the networks.
        steps, members: project options, the environment's if None.
        options: more project options, such as the measure; those above go before them.
        round_limit_s: longest wait for one round.
        purge: delete the projects, and what we hold of them, at the end.
    """

    folder: Path
    rounds: int = 5
    per_round: int = 10
    initial: int | None = None
    order: str = "queue"
    limit: int | None = None
    seed: int = 0
    steps: int | None = None
    members: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    round_limit_s: float = 3600.0
    purge: bool = False

    @property
    def orders(self) -> tuple[str, ...]:
        return ORDERS if self.order == "both" else (self.order,)

    @property
    def first(self) -> int:
        return self.per_round if self.initial is None else self.initial

    @property
    def labels(self) -> int:
        """Labels that the plan needs in all."""
        return self.first + (self.rounds - 1) * self.per_round


def replay(work: Workplace, plan: ReplayPlan, say: Say) -> ReplayResult:
    """Play the plan on the running system; takes as long as its rounds do.

    Args:
        say: gets a line of progress now and then.

    Raises:
        BadFolder: the folder is not what it should be; nothing was made.
        BadRequest: the plan does not fit the folder, or no process of ours is alive.
        ReplayFailed: a round failed or did not come in time; the project stays to be looked at.
        StudioUnreachable, StudioRefused: as the client met them.
    """
    folder = read_labelled_folder(plan.folder)
    training, held_back = folder.split()
    training = training[: plan.limit]
    _check_plan(plan, training)
    project_options(plan, unknown_label(folder.classes))
    _check_alive(work)
    say(
        f"{len(training)} images to learn from, {len(held_back)} held back, "
        f"classes {', '.join(folder.classes[1:])}"
    )
    curves: list[Curve] = []
    for order in plan.orders:
        annotator = _open_project(work, plan, folder, training, order, say)
        curves.append(_play(annotator, held_back))
    if plan.purge:
        for curve in curves:
            disconnect_project(work, curve.project, purge=True)
            work.studio.delete_project(curve.project)
    return ReplayResult(
        folder=folder.root.resolve().name,
        classes=folder.classes,
        training=len(training),
        held_back=len(held_back),
        deleted=plan.purge,
        curves=tuple(curves),
    )


def _check_plan(plan: ReplayPlan, training: Sequence[Labelled]) -> None:
    for name in ("rounds", "per_round", "first"):
        if getattr(plan, name) < 1:
            raise BadRequest(f"{name} must be a positive integer, got {getattr(plan, name)}.")
    if plan.order not in (*ORDERS, "both"):
        raise BadRequest(f"order must be queue, random or both, got {plan.order!r}.")
    if plan.first < plan.per_round:
        raise BadRequest(
            f"The initial set must hold at least the {plan.per_round} labels that start a round, "
            f"got {plan.first}."
        )
    if plan.labels > len(training):
        raise BadRequest(
            f"{plan.rounds} rounds need {plan.labels} images ({plan.first} and "
            f"{plan.rounds - 1} x {plan.per_round}), but {len(training)} are there to learn from: "
            "ask for fewer rounds or fewer labels per round."
        )


def _check_alive(work: Workplace) -> None:
    """Without a worker or a web the first wait would last until its limit."""
    now = time.time()
    alive = {
        row["role"] for row in work.ledger.processes() if now - row["seen_at"] < SILENT_AFTER_S
    }
    missing = [role for role in ("web", "worker") if role not in alive]
    if missing:
        raise BadRequest(
            f"No {' and no '.join(missing)} of ours is alive in {work.settings.data_dir}: "
            "start them by `make run`, and set DATA_DIR as it has it."
        )


# One project


@dataclass
class _Annotator:
    """Somebody who labels one project; knows every mask, draws them as brush strokes.

    Attributes:
        tasks: task id -> image and mask.
        labelled: task ids, in the order they were submitted.
    """

    work: Workplace
    plan: ReplayPlan
    folder: LabelledFolder
    order: str
    project: int
    title: str
    row_id: int
    tasks: Mapping[int, Labelled]
    say: Say
    draw: random.Random
    labelled: list[int] = field(default_factory=list)


def _open_project(
    work: Workplace,
    plan: ReplayPlan,
    folder: LabelledFolder,
    training: Sequence[Labelled],
    order: str,
    say: Say,
) -> _Annotator:
    unknown = unknown_label(folder.classes)
    title = project_title(folder.root.resolve().name, order, datetime.now().astimezone())
    project = work.studio.create_project(
        title=title, label_config=label_config(folder.classes, unknown), maximum_annotations=1
    )
    started = time.monotonic()
    task_ids = work.studio.upload(project.id, [_shown(item) for item in training])
    say(
        f"project {project.id}, {title!r}: {len(task_ids)} images uploaded in "
        f"{time.monotonic() - started:.1f} s"
    )
    connected = connect_project(work, project.id, project_options(plan, unknown))
    return _Annotator(
        work=work,
        plan=plan,
        folder=folder,
        order=order,
        project=project.id,
        title=title,
        row_id=connected.project["id"],
        tasks=dict(zip(task_ids, training, strict=True)),
        say=say,
        draw=random.Random(f"random order {plan.seed}"),
    )


def project_title(folder: str, order: str, now: datetime) -> str:
    """``replay <folder> <order> <date>``, the folder's name cut to what Label Studio allows."""
    date = f"{now:%Y-%m-%d %H:%M}"
    room = TITLE_LENGTH - len(f"replay  {order} {date}")
    return f"replay {folder[:room]} {order} {date}"


def unknown_label(classes: Sequence[str]) -> str:
    """A name for unknown pixels that no class has."""
    return next(name for name in ("Unknown", "Unknown pixels", "255") if name not in classes)


def label_config(classes: Sequence[str], unknown: str) -> str:
    """Label Studio's configuration: one brush label per class but background, and unknown."""
    labels = "\n".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(class_colour(index))}/>"
        for index, name in [*enumerate(classes[1:], start=1), (UNKNOWN, unknown)]
    )
    return (
        "<View>\n"
        f'  <Image name="{TO_NAME}" value="${DATA_KEY}" zoom="true"/>\n'
        f'  <BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">\n{labels}\n  </BrushLabels>\n'
        "</View>"
    )


def project_options(plan: ReplayPlan, unknown: str) -> Json:
    """The connection's extra parameters.

    Raises:
        BadOptions: the plan holds one that is unknown or out of range.
    """
    options: Json = {
        **plan.options,
        "unknown_label": unknown,
        "retrain_every": plan.per_round,
        "seed": plan.seed,
    }
    options |= {
        name: value
        for name, value in (("steps", plan.steps), ("members", plan.members))
        if value is not None
    }
    parse_options(options)
    return options


def _shown(item: Labelled) -> tuple[str, bytes]:
    """(name, bytes) of a file that Label Studio takes and browsers show."""
    if item.image.suffix.lower() in SHOWN_SUFFIXES:
        return item.name, item.image.read_bytes()
    from training.images import encode_png

    return f"{item.image.stem}.png", encode_png(_decode(item))


def _decode(item: Labelled) -> NDArray[np.uint8]:
    from training.images import UnreadableImage

    try:
        return read_image(item.image)
    except UnreadableImage as error:
        raise BadFolder(f"{error}.") from error


# The rounds of one project


def _play(annotator: _Annotator, held_back: Sequence[Labelled]) -> Curve:
    plan, say, order = annotator.plan, annotator.say, annotator.order
    points: list[Point] = []
    for number in range(1, plan.rounds + 1):
        former = annotator.work.ledger.last_round(annotator.row_id, kind="train")
        started_at = time.time()
        served, mismatches = _label_initial(annotator) if number == 1 else _label_more(annotator)
        submitted_at = time.time()
        label_s = submitted_at - started_at
        say(f"{order} round {number}: {len(annotator.labelled)} labels, in {label_s:.1f} s")
        row = _await_round(annotator, number, after=0 if former is None else former["id"])
        seconds = {
            "label": label_s,
            "wait": max(0.0, row["started_at"] - submitted_at),
            **row["timings"],
        }
        point = _test(annotator, held_back, number, row, seconds, served, mismatches)
        say(
            f"{order} round {number}: version {point.version} has mean IoU "
            f"{point.mean_iou:.3f} and Dice {point.mean_dice:.3f} on the held-back images"
        )
        points.append(point)
    return Curve(order, annotator.project, annotator.title, tuple(points))


def _label_initial(annotator: _Annotator) -> tuple[int, int]:
    """The same images in every order: drawn by name, not by task id."""
    by_name = {item.name: task_id for task_id, item in annotator.tasks.items()}
    drawn = random.Random(f"initial set {annotator.plan.seed}")
    for name in drawn.sample(sorted(by_name), annotator.plan.first):
        _submit(annotator, by_name[name], prediction=None)
    return 0, 0


def _label_more(annotator: _Annotator) -> tuple[int, int]:
    """Label the tasks of one more round.

    Returns:
        (tasks that Label Studio chose, those of them that were not the ranking's head).
    """
    served = mismatches = 0
    for _ in range(annotator.plan.per_round):
        if annotator.order == "random":
            task_id = _draw(annotator)
        else:
            task_id, fault = _next(annotator)
            served += 1
            if fault is not None:
                mismatches += 1
                annotator.say(fault)
        _submit(annotator, task_id, _shown_prediction(annotator, task_id))
    return served, mismatches


def _draw(annotator: _Annotator) -> int:
    left = {
        item.name: task_id
        for task_id, item in annotator.tasks.items()
        if task_id not in annotator.labelled
    }
    return left[annotator.draw.choice(sorted(left))]


def _next(annotator: _Annotator) -> tuple[int, str | None]:
    """The task that Label Studio serves, and a sentence if it is not the ranking's head."""
    before = _ranking(annotator)
    row = annotator.work.studio.next_task(annotator.project)
    if row is None:
        raise ReplayFailed(
            f"Label Studio has no next task in project {annotator.project}, though "
            f"{len(annotator.tasks) - len(annotator.labelled)} are not labelled."
        )
    task_id = int(row["id"])
    if task_id not in annotator.tasks or task_id in annotator.labelled:
        raise ReplayFailed(
            f"Label Studio served task {task_id} of project {annotator.project}, which the "
            "replay did not upload or has labelled already: does somebody else work there?"
        )
    fault = order_fault(task_id, before, annotator.labelled)
    if fault is not None and (after := _ranking(annotator)) != before:
        # A publication came between the two looks: its order counts then.
        fault = order_fault(task_id, after, annotator.labelled)
    return task_id, fault


def _ranking(annotator: _Annotator) -> list[int]:
    """Task ids of the serving publication, head first; empty if none serves."""
    ledger = annotator.work.ledger
    serving = ledger.serving(annotator.row_id)
    return [] if serving is None else [row["task_id"] for row in ledger.ranking(serving["id"])]


def order_fault(task_id: int, ranking: Sequence[int], labelled: Sequence[int]) -> str | None:
    """What is wrong with serving this task; None if it is the first that is not labelled.

    Beyond the ranking's end any task is right: they come in random order there.
    """
    done = set(labelled)
    head = next((ranked for ranked in ranking if ranked not in done), None)
    if head is None or head == task_id:
        return None
    place = f"place {ranking.index(task_id) + 1}" if task_id in ranking else "no place"
    return f"Label Studio served task {task_id} ({place} in the ranking), its head is {head}."


def _shown_prediction(annotator: _Annotator, task_id: int) -> Json | None:
    """The pre-annotation that the annotator starts from, if there is one."""
    serving = annotator.work.ledger.serving(annotator.row_id)
    if serving is None:
        return None
    predictions = annotator.work.studio.predictions(task_id)
    return next((p for p in predictions if p["model_version"] == serving["name"]), None)


def _submit(annotator: _Annotator, task_id: int, prediction: Json | None) -> None:
    folder = annotator.folder
    item = annotator.tasks[task_id]
    started = time.monotonic()
    result = strokes(
        folder.read_mask(item), folder.classes, unknown_label(folder.classes), prediction
    )
    fields: Json = {} if prediction is None else {"parent_prediction": prediction["id"]}
    annotator.work.studio.annotate(
        task_id, result, lead_time=round(time.monotonic() - started, 3), **fields
    )
    annotator.labelled.append(task_id)


def strokes(
    mask: NDArray[np.uint8],
    classes: Sequence[str],
    unknown: str,
    prediction: Mapping[str, Any] | None,
) -> list[Json]:
    """A mask as an annotation's regions, one brush region per class and one for unknown pixels.

    Where the pre-annotation has a region of that label, it is redrawn, as in the browser, and
    keeps its id; other regions of the pre-annotation are erased.

    Args:
        mask: [H, W] class indices, 255 unknown.
    """
    height, width = mask.shape
    drawn: dict[str, str] = {}
    for region in [] if prediction is None else prediction["result"]:
        for label in region["value"].get("brushlabels", []):
            drawn.setdefault(label, region["id"])
    regions: list[Json] = []
    for index, label in [*enumerate(classes[1:], start=1), (UNKNOWN, unknown)]:
        pixels = mask == index
        if not pixels.any():
            continue
        regions.append(
            {
                "id": drawn.get(label, f"class-{index}"),
                "from_name": FROM_NAME,
                "to_name": TO_NAME,
                "type": "brushlabels",
                "origin": "prediction-changed" if label in drawn else "manual",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": encode(pixels), "brushlabels": [label]},
            }
        )
    return regions


# Waiting


def _await_round(annotator: _Annotator, number: int, *, after: int) -> Row:
    """The training round, later than round ``after``, that used every label; once it ended well.

    Raises:
        ReplayFailed: it failed, or did not end in time.
    """
    ledger = annotator.work.ledger
    deadline = time.monotonic() + annotator.plan.round_limit_s
    said, said_at, asked_for = "", 0.0, after
    while True:
        row = ledger.last_round(annotator.row_id, kind="train")
        if row is not None and row["id"] > after and row["state"] != "active":
            if row["state"] == "failed":
                raise ReplayFailed(
                    f"Round {row['id']} of project {annotator.project} failed: {row['error']}"
                )
            if not set(annotator.labelled) - {entry["task"] for entry in row["manifest"]}:
                return row
            if row["id"] > asked_for:
                # It began while we were still labelling: what is left may be too few for another.
                ledger.add_event(annotator.row_id, "RETRAIN")
                asked_for = row["id"]
        now = _stage_of(annotator)
        if now != said or time.monotonic() - said_at > SAY_AGAIN_S:
            annotator.say(f"{annotator.order} round {number}: {now}")
            said, said_at = now, time.monotonic()
        if time.monotonic() > deadline:
            raise ReplayFailed(
                f"Round {number} did not end within {annotator.plan.round_limit_s:g} s ({now}): "
                "`python -m backend status` says more, --round-limit gives it longer."
            )
        time.sleep(POLL_S)


def _stage_of(annotator: _Annotator) -> str:
    """What the system does for this project now, in steps coarse enough to be a line each."""
    ledger = annotator.work.ledger
    active = ledger.active_round(annotator.row_id)
    if active is None:
        error = ledger.project(annotator.row_id)["last_error"]
        return "waiting for the round to start" + (f" (last error: {error})" if error else "")
    parts = ledger.parts(active["id"], active["stage"])
    done = sum(part["state"] == "done" for part in parts)
    of = f", {done} of {len(parts)} jobs done" if len(parts) > 1 else ""
    return f"{active['stage']}{of}"


# Testing


class Predicted(Protocol):
    """What ``Committee.look`` gives, as far as testing needs it."""

    def mask(self) -> NDArray[np.uint8]: ...


class Predicts(Protocol):
    """A committee, as far as testing needs one."""

    def predict(self, image: NDArray[np.uint8], /) -> Predicted: ...


def _test(
    annotator: _Annotator,
    held_back: Sequence[Labelled],
    number: int,
    round_: Row,
    seconds: Mapping[str, float],
    served: int,
    mismatches: int,
) -> Point:
    """The curve's point: what ranks after this round, tested on the held-back images."""
    ledger = annotator.work.ledger
    version = ledger.promoted_version(annotator.row_id)
    if version is None:
        raise ReplayFailed(
            f"Round {round_['id']} of project {annotator.project} left no promoted version: "
            "was one rolled back meanwhile?"
        )
    serving = ledger.serving(annotator.row_id)
    started = time.monotonic()
    slug = ledger.project(annotator.row_id)["slug"]
    committee = annotator.work.registry.load(slug, version["number"])
    iou, dice = quality(judge(committee, annotator.folder, held_back), annotator.folder.classes)
    test_s = time.monotonic() - started
    return Point(
        round=number,
        labels=len(annotator.labelled),
        made=round_["version"],
        promoted=version["number"] == round_["version"],
        version=version["number"],
        publication=None if serving is None else serving["name"],
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
            committee.predict(_decode(item)).mask(),
            len(folder.classes),
        )
        for item in items
    ]
    return sum(counts[1:], start=counts[0])


# The command


@click.command("replay")
@click.option(
    "--data",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="A labelled folder: images/, masks/ (PNG of class indices, 255 unknown), classes.txt.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Rounds of training in each order, the first on the initial set.",
)
@click.option(
    "--per-round",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Labels between two rounds.",
)
@click.option(
    "--initial",
    type=click.IntRange(1),
    default=None,
    help="Labels of the first round, drawn by chance (default: as --per-round).",
)
@click.option(
    "--order",
    type=click.Choice([*ORDERS, "both"]),
    default="queue",
    show_default=True,
    help="Label what Label Studio serves, or what chance draws, or one after the other.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=None, help="Upload at most this many images."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the initial set, the random order and the networks.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=None, help="Training steps of each member."
)
@click.option("--members", type=click.IntRange(1, 20), default=None, help="Networks.")
@click.option(
    "--options",
    "options_json",
    default=None,
    help="More project options, a JSON object (README.md).",
)
@click.option(
    "--round-limit",
    "round_limit_min",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Minutes to wait for one round before giving up.",
)
@click.option("--purge", is_flag=True, help="Delete the projects and their versions at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; progress goes to stderr.")
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=None,
    help="Write the curves to this file as well.",
)
def replay_command(
    as_json: bool,
    csv_path: Path | None,
    round_limit_min: float,
    options_json: str | None,
    **choices: Any,
) -> None:
    """Play a labelled folder through the live system and print the learning curve.

    Needs Label Studio, web and worker running (`make run`). Makes a project for each order and
    labels it by Label Studio's own API; a fixed fifth of the images is held back for testing.
    """
    plan = ReplayPlan(
        **choices, options=read_options(options_json), round_limit_s=60 * round_limit_min
    )
    work = Workplace(load_settings())
    try:
        work.ledger.check_schema()
        result = replay(work, plan, lambda line: click.echo(line, err=True))
    except TrainingError as error:
        raise BadRequest(str(error)) from error
    finally:
        work.close()
    if csv_path is not None:
        write_csv(result, csv_path)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else describe(result))


def read_options(text: str | None) -> Json:
    """The value of --options; {} if it was not given.

    Raises:
        BadRequest: it is no JSON object.
    """
    try:
        value = {} if text is None else json.loads(text)
    except ValueError as error:
        raise BadRequest(f"--options must be a JSON object: {error}.") from error
    if not isinstance(value, dict):
        raise BadRequest(f"--options must be a JSON object, got a {type(value).__name__}.")
    return value
