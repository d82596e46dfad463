"""What each stage of a round does.

A stage takes its round and one part's payload and returns an ``Outcome``: the part's result and
what comes next. Nothing here writes a round's rows: ``backend.jobs`` does, with the lease. Every
stage can be repeated, because a worker may die at any line of it.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from acquisition.select import order_queue
from backend.connect import set_order
from backend.errors import (
    BadRequest,
    ImageRefused,
    NotEnoughLabels,
    StudioRefused,
)
from backend.labels import LabelConfig
from backend.ledger import Row
from backend.options import ProjectOptions
from backend.preannotate import image_url, label_config_of, pre_annotate, read_image
from backend.regions import merge_masks, to_mask
from backend.rounds import is_audit, stamp_digest
from backend.settings import Settings
from backend.studio import Stamp, Task
from backend.workplace import Workplace
from training.assessment import Assessment, Verdict, assess, compare
from training.budget import budget_key, steps_within
from training.config import UNKNOWN, TrainConfig
from training.data import Example, make_example
from training.errors import TrainingError
from training.fit import fit_member, training_keys
from training.network import check_allowed
from training.own_network import weights_digest
from training.registry import load_weights, save_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

Progress = Callable[[float], None]

SHARD_TASKS = 32
"""Tasks of one scoring job: long enough to repay the start of a process, short enough to repeat."""

QUANTILES = 101
"""Places of the queue whose doubt is kept, to place a task that was opened outside it."""

FEWEST_TASKS = 2
"""A round needs labels on this many images that are not the audit's."""


@dataclass(frozen=True)
class Outcome:
    """What a part hands to the round.

    Attributes:
        result: the part's own, small and JSON.
        next_payloads: one for each part of the next stage; used by the part that ends the stage.
        round_values: columns of the round to write.
        problems: sentences for the round's list.
    """

    result: Mapping[str, Any] = field(default_factory=dict)
    next_payloads: Sequence[Mapping[str, Any]] = ({},)
    round_values: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()


# collect


def collect(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """Annotations as Label Studio holds them now, as examples; the manifest lists them."""
    row = work.ledger.project(round_["project_id"])
    options = work.options(row)
    project = work.studio.project(row["studio_id"])
    config = label_config_of(project.label_config, options)
    classes = classes_of(config, options)
    stamps = {
        task_id: task_stamps
        for task_id, task_stamps in work.studio.stamps(project.id).items()
        if stamp_digest(task_stamps) is not None
    }
    recipe = Recipe(config, classes, options)
    manifest, problems = _list_examples(work, row, stamps, recipe)
    missing = {
        entry["task"]: entry
        for entry in manifest
        if entry["digest"] is not None
        and not work.registry.has_example(row["slug"], entry["digest"])
    }
    bodies = work.studio.annotations_of(project.id, missing)
    for entry in missing.values():
        entry["digest"] = None  # until its example is made: the task may be gone by then
    for done, (task_id, bodies_of_task) in enumerate(bodies):
        problems += _make_example(work, row["slug"], missing[task_id], bodies_of_task, recipe)
        tick((done + 1) / len(missing))
    teaching = [e for e in manifest if e["digest"] is not None and not e["audit"]]
    if len(teaching) < FEWEST_TASKS:
        raise NotEnoughLabels(
            f"A round needs labels on at least {FEWEST_TASKS} images, got {len(teaching)} "
            f"({len(manifest)} labelled, {sum(e['audit'] for e in manifest)} of them audits, "
            f"{sum(e['digest'] is None for e in manifest)} unreadable). "
            + (f"First problem: {problems[0]}" if problems else "Label some more.")
        )
    members = options.members or work.settings.members
    check_folds([str(entry["task"]) for entry in teaching], members)
    train = train_config(classes, members, options, work.settings)
    if options.steps is None:
        train = replace(train, steps=_budget(work, row["slug"], train))
    return Outcome(
        result={"labelled": len(manifest)},
        next_payloads=[{"member": member} for member in range(members)],
        round_values={"manifest": manifest, "config": train.to_json()},
        problems=problems,
    )


def check_folds(keys: Sequence[str], members: int) -> None:
    """Refuse, before anything is trained, labels that leave a member nothing to learn from.

    Raises:
        NotEnoughLabels: all keys are in the fold that one member never sees.
    """
    if all(training_keys(keys, members, member) for member in range(members)):
        return
    raise NotEnoughLabels(
        f"Each of the {members} members leaves a fixed share of the images out to be tested on, "
        f"and all {len(keys)} labelled ones fall into the same share: label one or two more."
    )


def classes_of(config: LabelConfig, options: ProjectOptions) -> tuple[str, ...]:
    """Class names by index; the label that paints "unknown" is no class."""
    return ("background", *(name for name in config.labels if name != options.unknown_label))


def train_config(
    classes: tuple[str, ...], members: int, options: ProjectOptions, settings: Settings
) -> TrainConfig:
    """How the round's members are made; ``steps`` is the default where no option says it.

    Raises:
        BadNetwork: the file that members start from cannot be read.
    """
    network = options.network or settings.network
    chosen: dict[str, Any] = {
        "classes": classes,
        "members": members,
        "seed": options.seed,
        "max_side_px": options.max_side_px,
        "network": network,
    }
    if settings.network_weights is not None and network == settings.network:
        chosen["network_weights"] = str(settings.network_weights)
        chosen["network_weights_sha256"] = weights_digest(settings.network_weights)
    if options.steps is not None:
        chosen["steps"] = options.steps
    return TrainConfig(**chosen)


def _budget(work: Workplace, slug: str, config: TrainConfig) -> int:
    """A member's steps: derived at the project's first round, the same at every later one."""
    key = budget_key(work.settings.fit_seconds, config)
    steps = work.registry.steps(slug, key)
    if steps is None:
        steps = steps_within(work.settings.fit_seconds, config)
        work.registry.keep_steps(slug, key, steps)
        log.info("%d steps a member take about %g s here", steps, work.settings.fit_seconds)
    return steps


@dataclass(frozen=True)
class Recipe:
    """All that makes a task's example of its image and annotations."""

    config: LabelConfig
    classes: tuple[str, ...]
    options: ProjectOptions

    def digest(self, entry: Mapping[str, Any]) -> str:
        """A name for an example by all that it is made of."""
        parts = (
            entry["annotations"],
            entry["url"],
            self.classes,
            self.options.unlabelled,
            self.options.unknown_label,
            self.options.max_side_px,
        )
        return hashlib.sha256(orjson.dumps([str(part) for part in parts])).hexdigest()[:32]


def _list_examples(
    work: Workplace, row: Row, stamps: Mapping[int, Sequence[Stamp]], recipe: Recipe
) -> tuple[list[dict[str, Any]], list[str]]:
    """The manifest: an entry for each labelled task; ``digest`` None where it cannot teach."""
    tasks = {task.id: task for task in work.studio.tasks(row["studio_id"], ids=stamps)}
    manifest: list[dict[str, Any]] = []
    problems: list[str] = []
    for task_id, task_stamps in sorted(stamps.items()):
        entry: dict[str, Any] = {
            "task": task_id,
            "stamp": stamp_digest(task_stamps),
            "annotations": [[s.annotation_id, s.updated_at] for s in task_stamps if not s.skipped],
            "audit": is_audit(row["slug"], task_id, recipe.options.audit_fraction),
            "url": None,
            "digest": None,
        }
        try:
            if task_id in tasks:  # else deleted since the listing
                entry["url"] = image_url(tasks[task_id].data, recipe.config)
                entry["digest"] = recipe.digest(entry)
        except BadRequest as error:
            problems.append(f"Task {task_id}: {error}")
        manifest.append(entry)
    return manifest, problems


def _make_example(
    work: Workplace,
    slug: str,
    entry: dict[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    recipe: Recipe,
) -> list[str]:
    """Put a task's example into the registry; says what was wrong with it.

    A broken region costs that region, a broken image that task, and neither the round.
    """
    task_id, options = entry["task"], recipe.options
    teaching = [a for a in annotations if not a["was_cancelled"]]
    # Edited since the listing: what is read now is what teaches, and the manifest says so.
    entry["annotations"] = [[a["id"], a["updated_at"]] for a in teaching]
    entry["stamp"] = stamp_digest([Stamp(a["id"], a["updated_at"], False) for a in teaching])
    if not teaching:
        return []
    try:
        image = read_image(work.images, entry["url"])
    except ImageRefused as error:
        return [f"Task {task_id}: {error}"]
    mask, problems = _mask_of(teaching, image, recipe.config, options, recipe.classes)
    if (mask == UNKNOWN).all():
        problems.append("nothing on it is known, every pixel is unknown.")
    else:
        example = make_example(str(task_id), image, mask, options.max_side_px)
        digest = recipe.digest(entry)
        work.registry.put_example(slug, digest, example)
        entry["digest"] = digest
    return [f"Task {task_id}: {problem}" for problem in problems]


def _mask_of(
    annotations: Sequence[Mapping[str, Any]],
    image: NDArray[np.uint8],
    config: LabelConfig,
    options: ProjectOptions,
    classes: tuple[str, ...],
) -> tuple[NDArray[np.uint8], list[str]]:
    """The class-index mask that a task's annotators agree on, at the image's size."""
    height, width = image.shape[:2]
    masks, problems = [], []
    for annotation in annotations:
        mask, said = to_mask(
            annotation["result"],
            config,
            classes,
            (height, width),
            unlabelled=UNKNOWN if options.unlabelled == "unknown" else 0,
            unknown_label=options.unknown_label,
        )
        masks.append(mask)
        problems += [f"annotation {annotation['id']}: {problem}" for problem in said]
    return merge_masks(masks), problems


# fit


def fit(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """Train one member; its weights wait in the round's scratch folder."""
    slug = work.ledger.project(round_["project_id"])["slug"]
    config = TrainConfig.from_json(round_["config"])
    check_allowed(config, work.registry.own_network)
    member = int(payload["member"])
    name = member_file(member)
    if not work.registry.has_round(slug, round_["id"], name):
        examples = load_examples(work, slug, round_["manifest"], audits=False)
        weights, history = fit_member(
            examples, config, member, progress=lambda done, of: tick(done / of)
        )
        work.registry.put_round(slug, round_["id"], name, save_weights(weights))
        log.info(
            "member %d of round %d: loss %.3f at the end, after %.0f s",
            member,
            round_["id"],
            history.loss[-1],
            history.seconds,
        )
    return Outcome(result={"member": member})


def member_file(member: int) -> str:
    return f"member-{member:02d}.safetensors"


def load_examples(
    work: Workplace, slug: str, manifest: Iterable[Mapping[str, Any]], *, audits: bool
) -> list[Example]:
    """The manifest's examples, without the audit's unless asked for."""
    return [
        work.registry.get_example(slug, entry["digest"])
        for entry in manifest
        if entry["digest"] is not None and (audits or not entry["audit"])
    ]


# assemble


def assemble(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """Members to a version: calibrated, compared with the one that ranks now, promoted or kept."""
    project_id = round_["project_id"]
    slug = work.ledger.project(project_id)["slug"]
    config = TrainConfig.from_json(round_["config"])
    check_allowed(config, work.registry.own_network)
    number = int(round_["version"])
    weights = [
        load_weights(work.registry.get_round(slug, round_["id"], member_file(member)))
        for member in range(config.members)
    ]
    examples = load_examples(work, slug, round_["manifest"], audits=False)
    assessment = assess(weights, config, examples, progress=tick, engine=work.settings.engine)
    former = work.ledger.promoted_version(project_id)
    if former is not None and former["number"] == number:
        # This very version, promoted by an attempt that died before its part was finished.
        return Outcome(result={"version": number, "promoted": True})
    verdict = _compare(work, slug, former, assessment, examples)
    manifest = {"round": round_["id"], "entries": round_["manifest"]}
    folder = work.registry.save_version(
        slug, number, weights, config, manifest, assessment.metrics, assessment.sheet
    )
    if not assessment.problems:
        # Once here, and not by each that scores and serves with it.
        assessment.committee.keep_compiled(folder)
    work.ledger.record_version(
        project_id,
        number,
        round_["id"],
        state="promoted" if verdict.promote else "kept",
        reason=verdict.reason,
        members=config.members,
        classes=config.classes,
        metrics=assessment.metrics,
    )
    if not verdict.promote and former is None:
        raise NotEnoughLabels(
            f"The first version failed its check, so nothing serves yet: {verdict.reason}"
        )
    return Outcome(
        result={"version": number, "promoted": verdict.promote},
        problems=[] if verdict.promote else [f"Version {number} was kept: {verdict.reason}"],
    )


def _compare(
    work: Workplace,
    slug: str,
    former: Row | None,
    assessment: Assessment,
    examples: Sequence[Example],
) -> Verdict:
    """The new version beside the one that ranks now, if that one can still be read."""
    seed = assessment.config.seed
    if former is None:
        return compare(None, assessment, examples, seed)
    try:
        old = work.registry.load(slug, former["number"])
    except TrainingError as error:
        log.warning("version %d of %s cannot be read: %s", former["number"], slug, error)
        verdict = compare(None, assessment, examples, seed)
        reason = f"Version {former['number']} cannot be read, so there is nothing to compare with."
        return replace(verdict, reason=reason) if verdict.promote else verdict
    return compare(old, assessment, examples, seed)


# choose


def choose(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """The candidates: unlabelled tasks, all of them or the last head and a random part."""
    project_id = round_["project_id"]
    row = work.ledger.project(project_id)
    options = work.options(row)
    version = work.ledger.promoted_version(project_id)
    if version is None:
        raise NotEnoughLabels("There is no version to rank with: label more and train first.")
    config = label_config_of(work.studio.project(row["studio_id"]).label_config, options)
    problems: list[str] = []
    pool: dict[int, str] = {}
    tasks = 0
    for task in work.studio.tasks(row["studio_id"]):
        tasks += 1
        if task.annotations == 0 and task.skipped == 0:
            _add_candidate(pool, task, config, problems)
    most = options.candidates or work.settings.candidates
    chosen = choose_candidates(
        list(pool), _last_head(work, project_id), most, seed=options.seed + round_["id"]
    )
    shards = [chosen[i : i + SHARD_TASKS] for i in range(0, len(chosen), SHARD_TASKS)] or [[]]
    return Outcome(
        result={"pool": tasks, "unlabelled": len(pool)},
        next_payloads=[
            {"version": version["number"], "tasks": [[task_id, pool[task_id]] for task_id in shard]}
            for shard in shards
        ],
        problems=problems,
    )


def _add_candidate(
    pool: dict[int, str], task: Task, config: LabelConfig, problems: list[str]
) -> None:
    try:
        pool[task.id] = image_url(task.data, config)
    except BadRequest as error:
        problems.append(f"Task {task.id}: {error}")


def _last_head(work: Workplace, project_id: int) -> list[int]:
    serving = work.ledger.serving(project_id)
    return [] if serving is None else [r["task_id"] for r in work.ledger.ranking(serving["id"])]


def choose_candidates(
    pool: Sequence[int], last_head: Sequence[int], most: int, *, seed: int
) -> list[int]:
    """At most ``most`` of the pool: the last queue's head fills a half, chance the rest.

    A round then costs what it scores, not what the pool holds, and no image is out of reach.
    """
    if len(pool) <= most:
        return list(pool)
    unlabelled = set(pool)
    head = [task_id for task_id in last_head if task_id in unlabelled][: most // 2]
    rest = sorted(unlabelled.difference(head))
    return head + random.Random(seed).sample(rest, most - len(head))


# score


def score(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """Look at one shard of the candidates; masks and measures wait in the scratch folder."""
    row = work.ledger.project(round_["project_id"])
    options = work.options(row)
    config = label_config_of(row["label_config"], options)
    committee = work.registry.load(row["slug"], int(payload["version"]))
    scored: list[dict[str, Any]] = []
    problems: list[str] = []
    read: list[int] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        """Read as they are looked at; ``read`` tells whose they are."""
        for task_id, url in payload["tasks"]:
            try:
                image = read_image(work.images, url)
            except ImageRefused as error:
                problems.append(f"Task {task_id}: {error}")
                tick((len(scored) + len(problems)) / len(payload["tasks"]))
            else:
                read.append(task_id)
                yield image

    for number, look in enumerate(committee.looks(images())):
        result = pre_annotate(look, committee.config.classes, config, options)
        scored.append({"task": read[number], "arms": look.arms, "result": result})
        tick((len(scored) + len(problems)) / len(payload["tasks"]))
    name = write_shard(work, row["slug"], round_["id"], payload, scored)
    return Outcome(
        result={"file": name, "scored": len(scored), "refused": len(problems)}, problems=problems
    )


def write_shard(
    work: Workplace,
    slug: str,
    round_id: int,
    payload: Mapping[str, Any],
    scored: Sequence[Mapping[str, Any]],
) -> str:
    """Keep what was scored for publishing; its name, by what was asked, so that repeats agree.

    A line for each task, {task, arms} and its result with a tab between: the masks are most of
    it, and publishing hands them on without reading them.
    """
    name = f"shard-{hashlib.sha256(orjson.dumps(payload)).hexdigest()[:16]}.gz"
    lines = [
        orjson.dumps({"task": entry["task"], "arms": entry["arms"]})
        + b"\t"  # within JSON's strings it is escaped
        + orjson.dumps(entry["result"])
        for entry in scored
    ]
    work.registry.put_round(slug, round_id, name, gzip.compress(b"\n".join(lines), 1))
    return name


@dataclass(frozen=True)
class Scored:
    """What the scoring of one task left: the score of each arm, and the regions as JSON text."""

    arms: Mapping[str, float]
    result: bytes


def read_shards(work: Workplace, slug: str, round_id: int) -> dict[int, Scored]:
    """All that the round scored, by task id."""
    scored: dict[int, Scored] = {}
    for part in work.ledger.parts(round_id, "score"):
        data = gzip.decompress(work.registry.get_round(slug, round_id, part["result"]["file"]))
        for line in data.splitlines():
            head, result = line.split(b"\t", 1)
            entry = orjson.loads(head)
            scored[entry["task"]] = Scored(entry["arms"], result)
    return scored


# publish


def publish(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """Rank what was scored and make the head of it the queue that Label Studio serves."""
    project_id = round_["project_id"]
    row = work.ledger.project(project_id)
    options = work.options(row)
    arm = f"{options.measure}/{options.aggregate}"
    scored = read_shards(work, row["slug"], round_["id"])
    arms = {task_id: entry.arms for task_id, entry in scored.items()}
    chosen = next(p["result"] for p in work.ledger.parts(round_["id"], "choose"))
    head = rank(arms, arm, row["slug"], options, seed=options.seed + round_["id"])
    queue_length = options.queue_length or work.settings.queue_length
    head, left_out = head[:queue_length], len(head[queue_length:])
    left_out += chosen["unlabelled"] - sum(
        len(p["payload"]["tasks"]) for p in work.ledger.parts(round_["id"], "score")
    )
    version = int(work.ledger.parts(round_["id"], "score")[0]["payload"]["version"])
    problems: list[str] = []
    published = 0
    if head:
        held = work.studio.model_versions(row["studio_id"])
        publication = _stored_already(work, row, round_, held)
        if publication is None:
            publication, stored = _store_what_is_there(
                work, row, round_, version, head, scored, arm, held
            )
        else:
            stored = publication["length"]
        published = publication["length"]
        if stored < published:
            problems.append(
                f"Label Studio dropped {published - stored} of {published} predictions silently."
            )
        tick(0.8)
        set_order(work.studio, row["studio_id"], publication["name"])
        work.ledger.serve_publication(publication["id"], stored)
    work.ledger.update_project(
        project_id, pool=chosen["pool"], left_out=left_out, ranked_left=published
    )
    return Outcome(
        result={"published": published, "left_out": left_out},
        next_payloads=(),
        problems=problems,
    )


def rank(
    arms: Mapping[int, Mapping[str, float]],
    arm: str,
    slug: str,
    options: ProjectOptions,
    *,
    seed: int,
) -> list[int]:
    """Task ids, the one to label first at the head; audit tasks at seeded places."""
    import torch

    audit = {task_id for task_id in arms if is_audit(slug, task_id, options.audit_fraction)}
    scores = {task_id: arms[task_id][arm] for task_id in sorted(arms)}
    return order_queue(scores, audit, torch.Generator().manual_seed(seed))


def place_score(position: int, length: int) -> float:
    """The score of a place in the queue: in (0, 1), the head lowest, as Label Studio serves it."""
    return (position + 0.5) / length


def score_between(doubt: float, quantiles: Sequence[float]) -> float:
    """The score a task of this doubt would have had in the queue.

    Args:
        quantiles: doubt at evenly spaced places, most doubtful first.

    Returns:
        In [0, 1]: the share of the queue that is more doubtful.
    """
    more = sum(q > doubt for q in quantiles)
    return more / len(quantiles) if quantiles else 0.5


def _store_what_is_there(
    work: Workplace,
    row: Row,
    round_: Row,
    version: int,
    head: list[int],
    scored: Mapping[int, Scored],
    arm: str,
    held: Collection[str],
) -> tuple[Row, int]:
    """``_store_head``, again without the tasks that were deleted since they were scored.

    Label Studio refuses all predictions when one names a task that is gone. Asking first which
    are there would cost every publication of 10,000 tasks some seconds.
    """
    try:
        return _store_head(work, row, round_, version, head, scored, arm, held)
    except StudioRefused as error:
        if error.studio_status != 400:
            raise
        there = {task.id for task in work.studio.tasks(row["studio_id"], ids=head)}
        left = [task_id for task_id in head if task_id in there]
        if not left or len(left) == len(head):
            raise
        log.info("%d ranked tasks were deleted meanwhile", len(head) - len(left))
        return _store_head(work, row, round_, version, left, scored, arm, held)


def _store_head(
    work: Workplace,
    row: Row,
    round_: Row,
    version: int,
    head: Sequence[int],
    scored: Mapping[int, Scored],
    arm: str,
    held: Collection[str],
) -> tuple[Row, int]:
    """Write the publication to the ledger and its predictions to Label Studio, in one POST.

    Returns:
        The publication, and how many predictions Label Studio stored.
    """
    audit_fraction = work.options(row).audit_fraction
    doubts = sorted((scored[task_id].arms[arm] for task_id in head), reverse=True)
    publication = work.ledger.prepare_publication(
        row["id"],
        version,
        round_["id"],
        arm=arm,
        quantiles=[
            doubts[round(i * (len(doubts) - 1) / (QUANTILES - 1))] for i in range(QUANTILES)
        ],
        rows=[
            {
                "task_id": task_id,
                "position": position,
                "doubt": scored[task_id].arms[arm],
                "audit": is_audit(row["slug"], task_id, audit_fraction),
                "arms": scored[task_id].arms,
            }
            for position, task_id in enumerate(head)
        ],
        taken=held,
    )
    predictions = [
        {
            "task": task_id,
            "result": orjson.Fragment(scored[task_id].result),
            "score": place_score(position, len(head)),
            "model_version": publication["name"],
        }
        for position, task_id in enumerate(head)
    ]
    try:
        stored = work.studio.import_predictions(row["studio_id"], predictions)
    except StudioRefused:
        work.ledger.set_publication_state(publication["id"], "failed")
        raise
    if stored == 0:
        work.ledger.set_publication_state(publication["id"], "failed")
        raise StudioRefused(
            f"Label Studio stored none of {len(predictions)} predictions and said no reason: "
            "run `python -m backend doctor`.",
            422,
        )
    return publication, stored


def _stored_already(work: Workplace, row: Row, round_: Row, held: Mapping[str, int]) -> Row | None:
    """A publication that an earlier attempt of this round had stored whole before it died."""
    found = None
    for publication in work.ledger.publications(row["id"]):
        if publication["round_id"] != round_["id"]:
            continue
        whole = held.get(publication["name"], 0) == publication["length"]
        if publication["state"] in ("prepared", "serving") and whole and found is None:
            found = publication
        elif publication["state"] == "prepared":
            work.ledger.set_publication_state(publication["id"], "failed")
    return found


KEEP_MANIFESTS = 3
KEEP_RANKINGS = 5
"""What the examples and the ledger's rankings are kept for: the newest few, by these numbers."""


def clear_up(work: Workplace, round_: Row) -> None:
    """After a round has ended: its scratch goes, and what only older rounds needed."""
    row = work.ledger.project(round_["project_id"])
    work.registry.drop_round(row["slug"], round_["id"])
    kept = work.ledger.kept_manifests(row["id"], KEEP_MANIFESTS)
    digests = {entry["digest"] for manifest in kept for entry in manifest if entry["digest"]}
    work.registry.prune_examples(row["slug"], digests)
    work.ledger.drop_rankings(row["id"], KEEP_RANKINGS)


RUN: Mapping[str, Callable[[Workplace, Row, Mapping[str, Any], Progress], Outcome]] = {
    "collect": collect,
    "fit": fit,
    "assemble": assemble,
    "choose": choose,
    "score": score,
    "publish": publish,
}
