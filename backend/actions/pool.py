"""Pictures of a pool outside Label Studio become tasks: the most worthwhile, just in time."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError

from backend.actions.projects import connected_project
from backend.errors import BadRequest, NotEnoughLabels, StudioRefused
from backend.ledger import Project, Version
from backend.predict import image_url, label_config_of
from backend.rounds.evidence import trust_of
from backend.rounds.ranking import Candidate, rank, weights_of
from backend.rounds.stages.choose import mode_of
from backend.workplace import Workplace
from training.batch.scores import PictureScores, read_scores, score_files, scored_by
from training.files import locked

RANKED = 5
"""So many times as many pictures as are wanted are ranked by the whole rule, those that the leading
measure finds most uncertain: newness and classes need their features in memory."""

MOST_RANKED = 20_000

TASKS_PER_REQUEST = 500
"""Label Studio makes some 2,000 tasks a second; an interruption leaves so many in doubt at most."""

ADDRESSES = ("http://", "https://", "s3://", "gs://", "azure-blob://", "/data/")
"""How an address begins that Label Studio and we can open."""


@dataclass(frozen=True)
class PoolImport:
    """What an import did, or would do.

    Attributes:
        project: Label Studio's number.
        scored: pictures that have scores; ``known`` of them were tasks before.
        measure: the arm that leads; "" where chance decides.
        chosen: addresses in the order of their worth, each with its leading score and why.
        imported: how many became tasks now.
        notes: what a person should know, a sentence each.
    """

    project: int
    scored: int
    known: int
    measure: str
    chosen: list[dict[str, Any]]
    imported: int
    dry_run: bool
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def import_pool(
    work: Workplace,
    studio_id: int,
    folder: Path,
    top: int,
    show: Callable[[int, int, str], None],
    *,
    dry_run: bool = False,
) -> PoolImport:
    """Make tasks of the ``top`` most worthwhile pictures that are none yet.

    Args:
        folder: the output of `python -m training infer`.
        show: told what is done, of how much, and what it is.
        dry_run: say which, and ask Label Studio for nothing.

    Raises:
        UnknownProject, BadRequest: the project is not connected, its tasks name no image by a plain
            key, an address cannot be opened from Label Studio, or another import is under way.
        NotEnoughLabels: there is no version yet.
        NoScores: the folder holds none, or damaged ones.
        StudioUnreachable, StudioRefused: as the client met them. A picture that was under way is
            neither imported twice nor lost: the next import finds out.
    """
    row = connected_project(work, studio_id)
    try:
        with locked(work.settings.data_dir):
            return _import(work, row, folder, top, show, dry_run)
    except BlockingIOError as error:
        raise BadRequest(
            "Another `pool import` is under way on this machine: wait for its end."
        ) from error


def _import(
    work: Workplace,
    row: Project,
    folder: Path,
    top: int,
    show: Callable[[int, int, str], None],
    dry_run: bool,
) -> PoolImport:
    options = work.options(row)
    promoted = work.ledger.versions.promoted(row.id)
    if promoted is None:
        raise NotEnoughLabels("There is no version yet: label some images and train first.")
    files = score_files(folder)
    notes = _version_notes(scored_by(files), promoted)
    weights = weights_of(mode_of(options, promoted), trust_of(work.ledger, row.id))
    measure = max(weights, key=lambda arm: weights[arm], default="")
    config = label_config_of(work.studio.project(row.studio_id).label_config, options)
    if not config.data_key.isidentifier():
        raise BadRequest(
            f"The image of a task is under {config.data_key!r}: pictures can be imported where the "
            "label config names a plain key, such as $image."
        )
    if not dry_run:
        _settle_claims(work, row, lambda data: image_url(data, config))
    taken = work.ledger.pool.all(row.id)
    seed = options.seed + len(taken)
    found = _Best(taken, measure, top, random.Random(seed))
    for number, path in enumerate(files, 1):
        for scores in read_scores(path):
            if len(scores.class_scores) != len(promoted.classes):
                raise BadRequest(
                    f"The scores are of {len(scores.class_scores)} classes, and version "
                    f"{promoted.number}, which ranks now, has {len(promoted.classes)}: make them "
                    "anew by `python -m training infer` with that version."
                )
            found.add(scores)
        show(number, len(files), "reading scores")
    pictures = found.ranked(weights, seed, _known_classes(promoted))
    for scores, _ in pictures:
        if not scores.image.startswith(ADDRESSES):
            raise BadRequest(
                f"{scores.image!r} is no address that Label Studio can open: write one into the "
                "manifest under 'image', and where the file lies under 'path'. It begins with "
                f"one of {', '.join(ADDRESSES)}."
            )
    imported = 0
    for start in () if dry_run else range(0, len(pictures), TASKS_PER_REQUEST):
        some = [scores for scores, _ in pictures[start : start + TASKS_PER_REQUEST]]
        _make_tasks(work, row, some, config.data_key)
        imported += len(some)
        show(imported, len(pictures), "importing")
    return PoolImport(
        project=row.studio_id,
        scored=found.scored,
        known=found.known,
        measure=measure,
        chosen=[
            {"image": scores.image, "score": scores.arms.get(measure), "why": why}
            for scores, why in pictures
        ],
        imported=imported,
        dry_run=dry_run,
        notes=notes,
    )


def picture_number(image: str) -> int:
    """A number of 63 bits that stands for an address: two of 100 million pictures share one once
    in some 2,000 pools, and then one of them is left out."""
    return int.from_bytes(hashlib.sha256(image.encode()).digest()[:8], "big") >> 1


class _Best:
    """Of all scored pictures those that may be worth most, and an even sample of the rest."""

    def __init__(self, taken: set[int], measure: str, top: int, chance: random.Random) -> None:
        self._taken, self._measure, self._top, self._chance = taken, measure, top, chance
        self._most = min(RANKED * top, max(top, MOST_RANKED))
        self._heap: list[tuple[float, int, int, PictureScores]] = []
        self._sample: list[PictureScores] = []
        self.scored = self.known = self._fresh = 0

    def add(self, scores: PictureScores) -> None:
        self.scored += 1
        number = picture_number(scores.image)
        if number in self._taken:
            self.known += 1
            return
        self._fresh += 1
        if len(self._sample) < self._top:
            self._sample.append(scores)
        elif (place := self._chance.randrange(self._fresh)) < self._top:
            self._sample[place] = scores
        if not self._measure:
            return
        if self._measure not in scores.arms:
            raise BadRequest(
                f"The scores lack {self._measure}, the measure that leads: they were made by an "
                "older release. Make them anew by `python -m training infer`."
            )
        # A picture may stand in the manifest twice, and scores have no order.
        entry = (scores.arms[self._measure], number, self._fresh, scores)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def ranked(
        self, weights: dict[str, float], seed: int, known_classes: list[int] | None
    ) -> list[tuple[PictureScores, str]]:
        """The pictures to import by the rule that ranks a queue, and why each is among them."""
        by_address = {each.image: each for each in self._sample}
        drawn = set(by_address)
        by_address |= {each.image: each for *_, each in self._heap}
        every = [by_address[image] for image in sorted(by_address)]
        places = rank(
            {
                number: Candidate(each.arms, each.features, each.class_scores)
                for number, each in enumerate(every)
            },
            audits=(),
            weights=weights,
            length=self._top,
            seed=seed,
            known=known_classes,
            drawn=[number for number, each in enumerate(every) if each.image in drawn],
        )
        return [(every[place.task_id], place.why) for place in places]


def _known_classes(version: Version) -> list[int] | None:
    counts = version.metrics.get("labelled_images")  # an earlier release did not count them
    return None if counts is None else [counts[name] for name in version.classes]


def _version_notes(scored: set[str], promoted: Version) -> list[str]:
    if len(scored) > 1:
        raise BadRequest(
            f"The scores were made by several versions ({'; '.join(sorted(scored))}), and theirs "
            "do not compare: name a folder of one."
        )
    number = next(iter(scored)).partition(",")[0]
    if number == str(promoted.number):
        return []
    return [f"The scores are of version {number}, and version {promoted.number} ranks now."]


def _settle_claims(
    work: Workplace, row: Project, address_of: Callable[[dict[str, Any]], str]
) -> None:
    """What became of the pictures that an interrupted import had asked for."""
    claims = work.ledger.pool.claims(row.id)
    if not claims:
        return
    made: dict[int, int] = {}
    last = work.ledger.pool.last_task(row.id)
    # As they were imported: of s3://... Label Studio would tell a link of its own.
    for task in work.studio.tasks(row.studio_id, after=last, links=False):
        try:
            number = picture_number(address_of(task.data))
        except BadRequest:  # of another import, without an image
            continue
        if number in claims:
            made[number] = task.id
    work.ledger.pool.settle(row.id, made)
    work.ledger.pool.release(row.id)


def _make_tasks(
    work: Workplace, row: Project, pictures: Sequence[PictureScores], data_key: str
) -> None:
    numbers = [picture_number(each.image) for each in pictures]
    try:
        work.ledger.pool.claim(row.id, numbers)
    except IntegrityError as error:
        raise BadRequest(
            "Another `pool import`, on another machine, has taken some of the same pictures "
            "meanwhile: run one at a time, and this one again."
        ) from error
    try:
        task_ids = work.studio.import_tasks(
            row.studio_id, [{**each.data, data_key: each.image} for each in pictures]
        )
    except StudioRefused as error:
        if error.studio_status == 400:  # nothing was made of them
            work.ledger.pool.release(row.id)
        raise
    work.ledger.pool.settle(row.id, dict(zip(numbers, task_ids, strict=True)))
