"""The candidates of a round: which unlabelled tasks it predicts."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from backend.errors import BadRequest, NotEnoughLabels
from backend.fallback import damage_of, describe_damage, whole_version
from backend.label_studio.bulk import Task
from backend.label_studio.label_config import LabelConfig
from backend.ledger import NO_VERSION, START, Ledger, Outcome, Project, Round, Version
from backend.ledger.shapes import NoPayload, ScorePayload
from backend.options import FALLBACK, ProjectOptions
from backend.predict import group_of, image_url, label_config_of
from backend.rounds.audits import harms
from backend.rounds.elsewhere import is_from_elsewhere, queues_served
from backend.rounds.stages.shards import SHARD_TASKS
from backend.workplace import Workplace
from training.committee.checksums import DamagedVersion


def choose(
    work: Workplace, round_: Round, payload: NoPayload, tick: Callable[[float], None]
) -> Outcome:
    """The candidates: unlabelled tasks, all of them or the last head and a random part."""
    project_id = round_.project_id
    row = work.ledger.projects.get(project_id)
    options = work.options(row)
    promoted, problems = (None, []) if round_.kind == START else version_that_ranks(work, row)
    config = label_config_of(work.studio.project(row.studio_id).label_config, options)
    pool: dict[int, str] = {}
    groups: dict[int, str] = {}
    tasks = 0
    for task in work.studio.tasks(row.studio_id):
        tasks += 1
        if (group := group_of(task.data, options.group_by)) is not None:
            groups[task.id] = group
        if task.annotations == 0 and task.skipped == 0:
            _add_candidate(pool, task, config, problems)
    most = options.candidates or work.settings.candidates
    if promoted is not None and is_first_queue(work.ledger, promoted):
        most = min(most, SHARD_TASKS)
    by_chance = mode_of(options, promoted) in ("random", FALLBACK)
    head = (
        [] if by_chance else [each.task_id for each in work.ledger.publications.queue(project_id)]
    )
    chosen, drawn = choose_candidates(list(pool), head, most, seed=options.seed + round_.id)
    shards = [chosen[i : i + SHARD_TASKS] for i in range(0, len(chosen), SHARD_TASKS)] or [[]]
    unknown = {} if promoted is None else _unknown_groups(work, promoted, groups, chosen)
    return Outcome(
        result={
            "pool": tasks,
            "unlabelled": len(pool),
            "drawn": drawn,
            "unknown_groups": unknown,
        },
        next_payloads=[
            ScorePayload(
                version=NO_VERSION if promoted is None else promoted.number,
                tasks=[(task_id, pool[task_id]) for task_id in shard],
            )
            for shard in shards
        ],
        problems=problems,
    )


def is_first_queue(ledger: Ledger, version: Version) -> bool:
    """Whether a version from elsewhere ranks for the first time: a few images then, so that
    people have pre-annotations within a minute; a next round ranks the rest."""
    return is_from_elsewhere(version) and queues_served(ledger, version) == 0


def _unknown_groups(
    work: Workplace, version: Version, groups: Mapping[int, str], chosen: Collection[int]
) -> dict[str, list[int]]:
    """Group to its candidates, of the groups of which no image taught the version."""
    manifest = work.ledger.rounds.get(version.round_id).manifest or ()
    known = {
        groups[entry["task"]]
        for entry in manifest
        if entry["digest"] is not None and not entry["audit"] and entry["task"] in groups
    }
    unknown: dict[str, list[int]] = {}
    for task_id in chosen:
        if task_id in groups and groups[task_id] not in known:
            unknown.setdefault(groups[task_id], []).append(task_id)
    return unknown


def version_that_ranks(work: Workplace, row: Project) -> tuple[Version, list[str]]:
    """The newest promoted version whose files are whole, and what is wrong with a newer one.

    Raises:
        NotEnoughLabels: there is no version.
        DamagedVersion: none is whole.
    """
    version = work.ledger.versions.promoted(row.id)
    if version is None:
        raise NotEnoughLabels("There is no version to rank with: label more and train first.")
    damage = damage_of(work, row, version.number)
    if damage is None:
        return version, []
    instead = whole_version(work, row, version.number)
    said = describe_damage(version.number, damage, instead)
    if instead is None:
        raise DamagedVersion(said)
    return next(v for v in work.ledger.versions.all(row.id) if v.number == instead), [said]


def _add_candidate(
    pool: dict[int, str], task: Task, config: LabelConfig, problems: list[str]
) -> None:
    try:
        pool[task.id] = image_url(task.data, config)
    except BadRequest as error:
        problems.append(f"Task {task.id}: {error}")


def mode_of(options: ProjectOptions, version: Version | None) -> str:
    """What weighs the measures: the option, or chance while the labels it asked for do harm."""
    return FALLBACK if version is not None and harms(version.metrics) else options.mode


class Candidates(NamedTuple):
    """The tasks that a round predicts.

    Attributes:
        task_ids: all of them.
        drawn: those that are an even sample of the pool; None where it is the pool itself. The
            places of chance are drawn from these: the uncertainty chose the others already.
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
