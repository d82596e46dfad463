"""The candidates of a round: which unlabelled tasks it predicts."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from backend.errors import BadRequest, NotEnoughLabels
from backend.fallback import damage_of, describe_damage, whole_version
from backend.label_studio.bulk import Task
from backend.ledger import NO_VERSION, START, Ledger, Outcome, Project, Round, Version
from backend.ledger.shapes import NoPayload, ScorePayload
from backend.options import FALLBACK, ProjectOptions
from backend.predict import group_of, image_url, label_config_of
from backend.rounds.annotated import annotated_tasks
from backend.rounds.audits import harms
from backend.rounds.elsewhere import is_from_elsewhere, queues_served
from backend.rounds.stages.drawn_tasks import (
    LISTED_TASKS,
    drawn_tasks,
    is_unlabelled,
    span_to_draw_from,
    unlabelled_tasks,
)
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
    project = work.studio.project(row.studio_id)
    config = label_config_of(project.label_config, options)
    most = options.candidates or work.settings.candidates
    if promoted is not None and is_first_queue(work.ledger, promoted):
        most = min(most, SHARD_TASKS)
    by_chance = mode_of(options, promoted) in ("random", FALLBACK)
    head = [] if by_chance else work.ledger.publications.task_ids(project_id)
    seed = options.seed + round_.id
    urls: dict[int, str] = {}
    groups: dict[int, str] = {}

    def readable(tasks: Iterable[Task]) -> Iterator[int]:
        """The ids of those that name an image; notes what else is needed of them."""
        for task in tasks:
            try:
                urls[task.id] = image_url(task.data, config)
            except BadRequest as error:
                problems.append(f"Task {task.id}: {error}")
                continue
            if (group := group_of(task.data, options.group_by)) is not None:
                groups[task.id] = group
            yield task.id

    tasks, span = project.task_number, None
    if tasks > LISTED_TASKS:
        annotated = annotated_tasks(work, row, project)
        unlabelled = tasks - len(annotated)
        span = span_to_draw_from(work.studio, project, unlabelled, most)
    if span is None:
        listed = _Counted(work.studio.tasks(project.id))
        there = list(readable(task for task in listed if is_unlabelled(task)))
        tasks, unlabelled = listed.count, len(there)
        chosen, drawn = choose_candidates(there, head, most, seed=seed)
    else:
        open_ids = [task_id for task_id in head if task_id not in annotated][:most]
        waiting = list(readable(unlabelled_tasks(work.studio, project.id, open_ids)))
        order = readable(drawn_tasks(work.studio, project.id, span, seed))
        chosen, drawn = _head_and_chance(order, waiting, most)
        if len(chosen) < most:  # the others name no image, and a next round would find no more
            unlabelled = len(chosen)
    shards = [chosen[i : i + SHARD_TASKS] for i in range(0, len(chosen), SHARD_TASKS)] or [[]]
    unknown = {} if promoted is None else _unknown_groups(work, row, promoted, groups, chosen)
    return Outcome(
        result={
            "pool": tasks,
            "unlabelled": unlabelled,
            "drawn": drawn,
            "unknown_groups": unknown,
        },
        next_payloads=[
            ScorePayload(
                version=NO_VERSION if promoted is None else promoted.number,
                tasks=[(task_id, urls[task_id]) for task_id in shard],
            )
            for shard in shards
        ],
        problems=problems,
    )


class _Counted:
    """Tasks, and how many came so far."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tasks
        self.count = 0

    def __iter__(self) -> Iterator[Task]:
        for task in self._tasks:
            self.count += 1
            yield task


def is_first_queue(ledger: Ledger, version: Version) -> bool:
    """Whether a version from elsewhere ranks for the first time: a few images then, so that
    people have pre-annotations within a minute; a next round ranks the rest."""
    return is_from_elsewhere(version) and queues_served(ledger, version) == 0


def _unknown_groups(
    work: Workplace,
    row: Project,
    version: Version,
    groups: Mapping[int, str],
    chosen: Collection[int],
) -> dict[str, list[int]]:
    """Group to its candidates, of the groups of which no image taught the version."""
    unknown: dict[str, list[int]] = {}
    for task_id in chosen:
        if task_id in groups:
            unknown.setdefault(groups[task_id], []).append(task_id)
    if unknown:
        manifest = work.ledger.rounds.get(version.round_id).manifest or ()
        taught = [e["task"] for e in manifest if e["digest"] is not None and not e["audit"]]
        group_by = work.options(row).group_by
        for task in work.studio.tasks(row.studio_id, ids=taught):
            unknown.pop(group_of(task.data, group_by) or "", None)
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
    there = set(pool)
    waiting = [task_id for task_id in last_head if task_id in there]
    return _head_and_chance(iter(order), waiting, most)


def _head_and_chance(order: Iterator[int], waiting: Sequence[int], most: int) -> Candidates:
    """``choose_candidates`` of a pool in an order of chance, and of what waits, head first."""
    half = min(len(waiting), most // 2)
    drawn = list(islice(order, most - half))
    taken = set(drawn)
    head = [task_id for task_id in waiting if task_id not in taken][:half]
    taken.update(head)
    others = islice((task_id for task_id in order if task_id not in taken), half - len(head))
    return Candidates(head + drawn + list(others), drawn)
