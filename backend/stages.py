"""What each stage of a round does.

A stage takes its round and one part's payload and returns an ``Outcome``: the part's result and
what comes next. Nothing here writes a round's rows: ``backend.jobs`` does, with the lease. Every
stage can be repeated, because a worker may die at any line of it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from backend.audits import audit_metrics, harms
from backend.connect import set_order
from backend.errors import (
    BadRequest,
    ImageRefused,
    NotEnoughLabels,
    StudioRefused,
)
from backend.evidence import Due, due_evidence, trust_of, truth_for
from backend.labels import LabelConfig
from backend.ledger import NO_VERSION, START, Row
from backend.options import FALLBACK, ProjectOptions
from backend.preannotate import image_url, label_config_of, pre_annotate, read_image
from backend.ranking import (
    Candidate,
    Place,
    arm_quantiles,
    first_rank,
    queue_quantiles,
    rank,
    weights_of,
)
from backend.regions import merge_masks, to_mask
from backend.rounds import FEWEST_TASKS, is_audit, stamp_digest
from backend.settings import Settings
from backend.studio import Stamp, Task
from backend.workplace import Workplace
from training.assessment import Assessment, Verdict, assess, compare
from training.budget import budget_key, steps_within
from training.config import UNKNOWN, BadConfig, TrainConfig
from training.data import Example, make_example
from training.errors import TrainingError
from training.fit import bounded_threads, fit_member, training_keys
from training.network import check_allowed
from training.own_network import weights_digest
from training.registry import load_weights, save_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.inference import Committee

log = logging.getLogger(__name__)

Progress = Callable[[float], None]

SHARD_TASKS = 32
"""Tasks of one scoring job: long enough to repay the start of a process, short enough to repeat."""

FIRST_SIDE_PX = 512
"""Long side at which an encoder looks before there is a version: it looks for nothing in the image,
and half the usual side takes a quarter of the time."""


@dataclass(frozen=True)
class Outcome:
    """What a part hands to the round.

    Attributes:
        result: the part's own, small and JSON.
        next_payloads: one for each part of the next stage; used by the part that ends the stage.
        round_values: columns of the round to write.
        problems: sentences for the round's list.
        judged: rows of evidence, written with the part.
        withdrawn: tasks whose evidence goes with it.
    """

    result: Mapping[str, Any] = field(default_factory=dict)
    next_payloads: Sequence[Mapping[str, Any]] = ({},)
    round_values: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()
    judged: Sequence[Mapping[str, Any]] = ()
    withdrawn: Collection[int] = ()


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
    due = _due_evidence(work, row, manifest)
    shards = [due.judge[i : i + SHARD_TASKS] for i in range(0, len(due.judge), SHARD_TASKS)]
    return Outcome(
        result={"labelled": len(manifest), "judged": len(due.judge)},
        next_payloads=[{"tasks": [list(each) for each in shard]} for shard in shards or [[]]],
        round_values={"manifest": manifest, "config": train.to_json()},
        problems=problems,
        withdrawn=due.withdrawn,
    )


def _due_evidence(work: Workplace, row: Row, manifest: Sequence[Mapping[str, Any]]) -> Due:
    version = work.ledger.promoted_version(row["id"])
    learnt = [] if version is None else work.ledger.round(version["round_id"])["manifest"] or []
    return due_evidence(
        manifest,
        work.ledger.evidence(row["id"]),
        None if version is None else version["number"],
        learnt,
        work.registry.versions(row["slug"]),
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
    mask, problems = mask_of(teaching, image, recipe.config, options, recipe.classes)
    if (mask == UNKNOWN).all():
        problems.append("nothing on it is known, every pixel is unknown.")
    else:
        example = make_example(str(task_id), image, mask, options.max_side_px)
        digest = recipe.digest(entry)
        work.registry.put_example(slug, digest, example)
        entry["digest"] = digest
    return [f"Task {task_id}: {problem}" for problem in problems]


def mask_of(
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


# judge


def judge(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """Look at newly labelled images by a version that never saw the labels: which measure saw
    its errors?"""
    row = work.ledger.project(round_["project_id"])
    config = TrainConfig.from_json(round_["config"])
    entries = {entry["task"]: entry for entry in round_["manifest"]}
    before = {each["task_id"]: each for each in work.ledger.evidence(row["id"])}
    chosen_for = work.ledger.chosen_for(row["id"], labelled_at(round_["manifest"]))
    judged: list[dict[str, Any]] = []
    withdrawn: list[int] = []
    judges: dict[int, Committee | None] = {}
    problems: list[str] = []
    for done, (task_id, digest, number) in enumerate(payload["tasks"]):
        if number not in judges:
            try:
                judges[number] = _judge_of(work, row["slug"], number, config)
            except TrainingError as error:
                judges[number] = None
                problems.append(f"Version {number} cannot judge new labels: {error}")
        committee = judges[number]
        if committee is None:
            if task_id in before:
                withdrawn.append(task_id)  # it was of the label before it was edited
            continue
        example = work.registry.get_example(row["slug"], digest)
        former = before.get(task_id)
        judged.append(
            {
                "task_id": task_id,
                "round_id": round_["id"] if former is None else former["round_id"],
                "version": number,
                "stamp": entries[task_id]["stamp"],
                **_judgement(committee, example, config.classes),
                "audit": entries[task_id]["audit"],
                "chosen_for": (
                    chosen_for.get(task_id, "") if former is None else former["chosen_for"]
                ),
            }
        )
        tick((done + 1) / len(payload["tasks"]))
    return Outcome(
        result={"judged": len(judged)},
        next_payloads=[{"member": member} for member in range(config.members)],
        problems=problems,
        judged=judged,
        withdrawn=withdrawn,
    )


def labelled_at(manifest: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Task id to when its first annotation was made, or last changed: unix seconds."""
    return {
        entry["task"]: min(
            datetime.fromisoformat(updated_at).timestamp() for _, updated_at in entry["annotations"]
        )
        for entry in manifest
        if entry["annotations"]
    }


def _judge_of(work: Workplace, slug: str, number: int, config: TrainConfig) -> Committee:
    """The version that judges.

    Raises:
        TrainingError: it cannot be read, or sees a class that no label stands for any more.
    """
    committee = work.registry.load(slug, number)
    gone = [name for name in committee.config.classes if name not in config.classes]
    if gone:
        raise BadConfig(
            f"it sees {', '.join(gone)}, which the labeling configuration does not have any more"
        )
    return committee


def _judgement(committee: Committee, example: Example, classes: Sequence[str]) -> dict[str, Any]:
    """The columns of evidence that a look at an example gives."""
    look = committee.look(example.image)
    h, w = look.predicted.shape
    truth = truth_for(example.mask, (h, w), classes, committee.config.classes)
    found = look.judge(truth)
    return {
        "rewards": dict(found.rewards),
        "scores": dict(look.arms),
        "error": found.error,
        "wrong": found.wrong,
        "judged": found.judged,
    }


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
    metrics = {
        **assessment.metrics,
        "labelled_images": labelled_images(examples, config.classes),
        **_audit(work, round_, slug, assessment),
    }
    folder = work.registry.save_version(
        slug, number, weights, config, manifest, metrics, assessment.sheet
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
        metrics=metrics,
    )
    if not verdict.promote and former is None:
        raise NotEnoughLabels(
            f"The first version failed its check, so nothing serves yet: {verdict.reason}"
        )
    return Outcome(
        result={"version": number, "promoted": verdict.promote},
        problems=[] if verdict.promote else [f"Version {number} was kept: {verdict.reason}"],
    )


def _audit(work: Workplace, round_: Row, slug: str, assessment: Assessment) -> dict[str, Any]:
    project_id, manifest = round_["project_id"], round_["manifest"]
    audits = load_examples(work, slug, [e for e in manifest if e["audit"]], audits=True)
    evidence = work.ledger.evidence(project_id)
    chance = {str(row["task_id"]) for row in evidence if row["chosen_for"] == "chance"}
    truths = {str(e["task"]): e["digest"] for e in manifest if e["digest"] is not None}
    former = [row for row in work.ledger.versions(project_id) if row["state"] == "promoted"]
    return audit_metrics(assessment, audits, chance, truths, former[::-1])


def labelled_images(examples: Iterable[Example], classes: Sequence[str]) -> dict[str, int]:
    """Class name to how many of the examples show it."""
    import numpy as np

    counts = dict.fromkeys(classes, 0)
    for example in examples:
        for index in set(np.unique(example.mask).tolist()) - {UNKNOWN}:
            counts[classes[index]] += 1
    return counts


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
    promoted = None if round_["kind"] == START else _promoted(work, project_id)
    config = label_config_of(work.studio.project(row["studio_id"]).label_config, options)
    problems: list[str] = []
    pool: dict[int, str] = {}
    tasks = 0
    for task in work.studio.tasks(row["studio_id"]):
        tasks += 1
        if task.annotations == 0 and task.skipped == 0:
            _add_candidate(pool, task, config, problems)
    most = options.candidates or work.settings.candidates
    by_chance = _mode(options, promoted) in ("random", FALLBACK)
    head = [] if by_chance else _last_head(work, project_id)
    chosen, drawn = choose_candidates(list(pool), head, most, seed=options.seed + round_["id"])
    shards = [chosen[i : i + SHARD_TASKS] for i in range(0, len(chosen), SHARD_TASKS)] or [[]]
    return Outcome(
        result={"pool": tasks, "unlabelled": len(pool), "drawn": drawn},
        next_payloads=[
            {
                "version": NO_VERSION if promoted is None else promoted["number"],
                "tasks": [[task_id, pool[task_id]] for task_id in shard],
            }
            for shard in shards
        ],
        problems=problems,
    )


def _promoted(work: Workplace, project_id: int) -> Row:
    version = work.ledger.promoted_version(project_id)
    if version is None:
        raise NotEnoughLabels("There is no version to rank with: label more and train first.")
    return version


def _mode(options: ProjectOptions, version: Row | None) -> str:
    """What weighs the measures: the option, or chance while the labels it asked for do harm."""
    return FALLBACK if version is not None and harms(version["metrics"]) else options.mode


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


class Candidates(NamedTuple):
    """Whom a round looks at.

    Attributes:
        task_ids: all of them.
        drawn: those that are an even sample of the pool; None where it is the pool itself. What
            chance places is to come from these: of the others doubt has decided already.
    """

    task_ids: list[int]
    drawn: list[int] | None


def choose_candidates(
    pool: Sequence[int], last_head: Sequence[int], most: int, *, seed: int
) -> Candidates:
    """At most ``most`` of the pool: an even sample, and for a half of them the last queue's head.

    A round then costs what it scores, not what the pool holds, and no image is out of reach.
    """
    if len(pool) <= most:
        return Candidates(list(pool), None)
    # Of the whole pool, the last head included: of what the head leaves no draw would be even.
    order = random.Random(seed).sample(sorted(pool), len(pool))
    waiting = set(pool).intersection(last_head)
    half = min(len(waiting), most // 2)
    drawn, rest = order[: most - half], order[most - half :]
    waiting.difference_update(drawn)
    head = [task_id for task_id in last_head if task_id in waiting][:half]
    in_head = set(head)
    others = [task_id for task_id in rest if task_id not in in_head]
    return Candidates(head + drawn + others[: half - len(head)], drawn)


# score


def score(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """Look at one shard of the candidates; masks and measures wait in the scratch folder."""
    row = work.ledger.project(round_["project_id"])
    options = work.options(row)
    version, tasks = int(payload["version"]), payload["tasks"]
    scored: list[dict[str, Any]] = []
    problems: list[str] = []
    unlike: list[str] = []
    read: list[int] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        """Read as they are looked at; ``read`` tells whose they are."""
        for task_id, url in tasks:
            try:
                image = read_image(work.images, url)
            except ImageRefused as error:
                problems.append(f"Task {task_id}: {error}")
                tick((len(scored) + len(problems)) / len(tasks))
            else:
                read.append(task_id)
                yield image

    if version == NO_VERSION and options.mode == "random":
        # Chance needs no look.
        scored = [{"task": task_id, "arms": {}, "result": []} for task_id, _ in tasks]
    else:
        looks = (
            _first_looks(work, options, images())
            if version == NO_VERSION
            else _looks(work, row, options, version, images())
        )
        for number, found in enumerate(looks):
            scored.append({"task": read[number], **found})
            if found["features"] is None:
                unlike.append(
                    f"The features of task {read[number]} are not finite numbers, so this queue "
                    "does not heed which images are alike: look at the network."
                )
            tick((len(scored) + len(problems)) / len(tasks))
    name = write_shard(work, row["slug"], round_["id"], payload, scored)
    return Outcome(
        result={"file": name, "scored": len(scored), "refused": len(problems)},
        problems=problems + unlike,
    )


def _looks(
    work: Workplace,
    row: Row,
    options: ProjectOptions,
    version: int,
    images: Iterator[NDArray[np.uint8]],
) -> Iterator[dict[str, Any]]:
    """What a version sees in each image: what ranks it, and its regions."""
    config = label_config_of(row["label_config"], options)
    committee = work.registry.load(row["slug"], version)
    for look in committee.looks(images):
        yield {
            "arms": look.arms,
            "features": packed(look.features.mean(axis=0)),
            "class_scores": look.class_scores.tolist(),
            "result": pre_annotate(look, committee.config.classes, config, options),
        }


def _first_looks(
    work: Workplace, options: ProjectOptions, images: Iterator[NDArray[np.uint8]]
) -> Iterator[dict[str, Any]]:
    """What is seen in each image before there is a version: no more than what it resembles."""
    from training.first_look import first_features

    side_px = min(options.max_side_px, FIRST_SIDE_PX)
    for features in first_features(images, side_px, work.registry.threads):
        yield {"arms": {}, "features": packed(features), "result": []}


def write_shard(
    work: Workplace,
    slug: str,
    round_id: int,
    payload: Mapping[str, Any],
    scored: Sequence[Mapping[str, Any]],
) -> str:
    """Keep what was scored for publishing; its name, by what was asked, so that repeats agree.

    A line for each task, what ranks it and its result with a tab between: the masks are most of
    it, and publishing hands them on without reading them.
    """
    name = f"shard-{hashlib.sha256(orjson.dumps(payload)).hexdigest()[:16]}.gz"
    lines = [
        orjson.dumps({key: value for key, value in entry.items() if key != "result"})
        + b"\t"  # within JSON's strings it is escaped
        + orjson.dumps(entry["result"])
        for entry in scored
    ]
    work.registry.put_round(slug, round_id, name, gzip.compress(b"\n".join(lines), 1))
    return name


def packed(features: NDArray[np.float32]) -> str | None:
    """Features [F] in half precision as text, an eighth of their length as JSON numbers; None
    where one is not finite, as of a laboratory's own network it may be."""
    import numpy as np

    if not np.isfinite(features).all():
        return None
    largest = float(np.finfo(np.float16).max)
    return base64.b64encode(features.clip(-largest, largest).astype("<f2").tobytes()).decode()


def unpacked(text: str) -> NDArray[np.float16]:
    """What ``packed`` packed."""
    import numpy as np

    return np.frombuffer(base64.b64decode(text), "<f2")


@dataclass(frozen=True)
class Scored(Candidate):
    """What the scoring of one task left; ``result`` is its regions as JSON text."""

    result: bytes = b"[]"


def read_shards(work: Workplace, slug: str, round_id: int) -> dict[int, Scored]:
    """All that the round scored, by task id."""
    scored: dict[int, Scored] = {}
    for part in work.ledger.parts(round_id, "score"):
        data = gzip.decompress(work.registry.get_round(slug, round_id, part["result"]["file"]))
        for line in data.splitlines():
            head, result = line.split(b"\t", 1)
            entry = orjson.loads(head)
            scored[entry["task"]] = _scored(entry, result)
    return scored


def _scored(entry: Mapping[str, Any], result: bytes) -> Scored:
    import numpy as np

    features, shown = entry.get("features"), entry.get("class_scores")
    return Scored(
        entry["arms"],
        None if features is None else unpacked(features),
        None if shown is None else np.array(shown, np.float32),
        result,
    )


# publish


def publish(work: Workplace, round_: Row, payload: Mapping[str, Any], tick: Progress) -> Outcome:
    """Rank what was scored and make the head of it the queue that Label Studio serves."""
    project_id = round_["project_id"]
    row = work.ledger.project(project_id)
    touched = work.studio.stamps(row["studio_id"])
    # What was labelled since it was chosen is asked for no more, nor may this queue's reason
    # for it take the place of that for which it was.
    scored = {
        task_id: found
        for task_id, found in read_shards(work, row["slug"], round_["id"]).items()
        if task_id not in touched
    }
    chosen = next(p["result"] for p in work.ledger.parts(round_["id"], "choose"))
    version = int(work.ledger.parts(round_["id"], "score")[0]["payload"]["version"])
    # Many small steps, which a second thread would only wait upon.
    with bounded_threads(1):
        ranking = _rank(work, row, round_, version, scored, chosen.get("drawn"))
    head, left_out = ranking.places, len(scored) - len(ranking.places)
    left_out += chosen["unlabelled"] - sum(
        len(p["payload"]["tasks"]) for p in work.ledger.parts(round_["id"], "score")
    )
    problems: list[str] = []
    published = 0
    if head:
        held = work.studio.model_versions(row["studio_id"])
        publication = _stored_already(work, row, round_, held)
        if publication is None:
            publication, stored = _store_what_is_there(
                work, row, round_, version, ranking, scored, held
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


@dataclass(frozen=True)
class Ranking:
    """A queue to publish, and what it was made by.

    Attributes:
        places: head first.
        mode: the option that made the weights, or ``FALLBACK``.
        weights: arm to weight.
        arm_quantiles: of the weighted arms.
    """

    places: Sequence[Place]
    mode: str
    weights: Mapping[str, float]
    arm_quantiles: Mapping[str, Sequence[float]]


def _rank(
    work: Workplace,
    row: Row,
    round_: Row,
    version: int,
    scored: Mapping[int, Scored],
    drawn: Collection[int] | None,
) -> Ranking:
    options = work.options(row)
    length = options.queue_length or work.settings.queue_length
    audits = {t for t in scored if is_audit(row["slug"], t, options.audit_fraction)}
    seed = options.seed + round_["id"]
    if version == NO_VERSION:
        places = first_rank(scored, audits, length, seed=seed, drawn=drawn)
        by_chance = any(place.why == "chance" for place in places)
        return Ranking(places, "random" if by_chance else options.mode, {}, {})
    ranks = next(v for v in work.ledger.versions(row["id"]) if v["number"] == version)
    mode = _mode(options, ranks)
    weights = weights_of(mode, trust_of(work.ledger, row["id"]))
    counts = ranks["metrics"].get("labelled_images")  # an earlier release did not count them
    known = None if counts is None else [counts[name] for name in ranks["classes"]]
    places = rank(scored, audits, weights, length, seed=seed, known=known, drawn=drawn)
    return Ranking(places, mode, weights, arm_quantiles(scored, weights))


def place_score(position: int, length: int) -> float:
    """The score of a place in the queue: in (0, 1), the head lowest, as Label Studio serves it."""
    return (position + 0.5) / length


def _store_what_is_there(
    work: Workplace,
    row: Row,
    round_: Row,
    version: int,
    ranking: Ranking,
    scored: Mapping[int, Scored],
    held: Collection[str],
) -> tuple[Row, int]:
    """``_store_head``, again without the tasks that were deleted since they were scored.

    Label Studio refuses all predictions when one names a task that is gone. Asking first which
    are there would cost every publication of 10,000 tasks some seconds.
    """
    try:
        return _store_head(work, row, round_, version, ranking, scored, held)
    except StudioRefused as error:
        if error.studio_status != 400:
            raise
        ids = [place.task_id for place in ranking.places]
        there = {task.id for task in work.studio.tasks(row["studio_id"], ids=ids)}
        left = [place for place in ranking.places if place.task_id in there]
        if not left or len(left) == len(ids):
            raise
        log.info("%d ranked tasks were deleted meanwhile", len(ids) - len(left))
        ranking = replace(ranking, places=left)
        return _store_head(work, row, round_, version, ranking, scored, held)


def _store_head(
    work: Workplace,
    row: Row,
    round_: Row,
    version: int,
    ranking: Ranking,
    scored: Mapping[int, Scored],
    held: Collection[str],
) -> tuple[Row, int]:
    """Write the publication to the ledger and its predictions to Label Studio, in one POST.

    Returns:
        The publication, and how many predictions Label Studio stored.
    """
    head, weights = ranking.places, ranking.weights
    publication = work.ledger.prepare_publication(
        row["id"],
        version,
        round_["id"],
        arm=max(weights, key=lambda arm: weights[arm], default=""),
        quantiles=queue_quantiles([place.doubt for place in head]),
        rows=[
            {
                "task_id": place.task_id,
                "position": position,
                "doubt": place.doubt,
                "audit": place.why == "audit",
                "arms": scored[place.task_id].arms,
                "why": place.why,
            }
            for position, place in enumerate(head)
        ],
        taken=held,
        mode=ranking.mode,
        weights=weights,
        arm_quantiles=ranking.arm_quantiles,
    )
    predictions = [
        {
            "task": place.task_id,
            "result": orjson.Fragment(scored[place.task_id].result),
            "score": place_score(position, len(head)),
            "model_version": publication["name"],
        }
        for position, place in enumerate(head)
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
    "judge": judge,
    "fit": fit,
    "assemble": assemble,
    "choose": choose,
    "score": score,
    "publish": publish,
}
