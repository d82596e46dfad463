"""What was scored becomes the queue that Label Studio serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from backend.errors import StudioRefused
from backend.label_studio.bulk import LARGEST_RESULT, StoredPrediction
from backend.label_studio.queue_order import set_order
from backend.label_studio.regions import MOST_BRUSHES
from backend.label_studio.reserved_controls import has_layer_control
from backend.ledger import NO_VERSION, Outcome, Place, Project, Publication, Round
from backend.ledger.shapes import NoPayload, Result
from backend.predict import label_config_of
from backend.rounds.annotated import annotated_tasks
from backend.rounds.elsewhere import is_from_elsewhere
from backend.rounds.evidence import trust_of
from backend.rounds.ranking import (
    Ranked,
    arm_quantiles,
    first_rank,
    queue_quantiles,
    rank,
    unusable_last,
    weights_of,
)
from backend.rounds.schedule import is_audit, unread
from backend.rounds.stages.choose import mode_of
from backend.rounds.stages.layers import with_layers
from backend.rounds.stages.shards import Scored, read_shards
from backend.workplace import Workplace
from training.compute import bounded_threads
from training.quality.usable import unusable

log = logging.getLogger(__name__)

LARGEST_PUBLICATION = 1_000_000_000
"""Bytes of regions that one publication may store: Label Studio takes some 6 MB a second (SQLite),
so that this is three minutes, and keeps them for a day after they were superseded."""


def publish(
    work: Workplace, round_: Round, payload: NoPayload, tick: Callable[[float], None]
) -> Outcome:
    """Rank what was scored and make the head of it the queue that Label Studio serves."""
    project_id = round_.project_id
    row = work.ledger.projects.get(project_id)
    touched = annotated_tasks(work, row, work.studio.project(row.studio_id))
    # What was labelled since it was chosen is asked for no more, nor may this queue's reason
    # for it take the place of that for which it was.
    scored = {
        task_id: found
        for task_id, found in read_shards(work, row.slug, round_.id).items()
        if task_id not in touched
    }
    (chosen,) = work.ledger.parts.results(round_.id, "choose")
    shards = work.ledger.parts.to_score(round_.id)
    version = shards[0]["version"]
    problems: list[str] = []
    scored, too_large = _that_can_be_sent(scored)
    # Many small steps, which a second thread would only wait upon.
    with bounded_threads(1):
        ranking = _rank(work, row, round_, version, scored, chosen)
    useless = unusable({task_id: each.focus for task_id, each in scored.items() if each.focus})
    ranking = replace(ranking, places=unusable_last(ranking.places, useless))
    sent = _layered(work, row, ranking.places, scored)
    ranking = replace(ranking, places=_within_bounds(ranking.places, sent, problems))
    _warn_of_many_brushes(ranking.places, scored, problems)
    head, left_out = ranking.places, len(scored) - len(ranking.places)
    left_out += chosen["unlabelled"] - sum(len(shard["tasks"]) for shard in shards)
    published = 0
    if refused := unread(work.ledger, round_.id):
        problems.append(
            f"None of the {refused} images that were chosen could be read, so the queue is as it "
            "was; they are tried again in an hour."
        )
    if head:
        held = work.studio.model_versions(row.studio_id)
        publication = _stored_already(work, row, round_, held)
        if publication is None:
            publication, stored = _store_what_is_there(
                work, row, round_, version, ranking, sent, held
            )
        else:
            stored = publication.length
        published = publication.length
        if stored < published:
            problems.append(
                f"Label Studio dropped {published - stored} of {published} predictions silently."
            )
        tick(0.8)
        set_order(work.studio, row.studio_id, publication.name)
        work.ledger.publications.serve(publication.id, stored)
    work.ledger.projects.update(
        project_id, pool=chosen["pool"], left_out=left_out, ranked_left=published
    )
    return Outcome(
        result={"published": published, "left_out": left_out},
        next_payloads=(),
        problems=problems + too_large,
    )


def _layered(
    work: Workplace, row: Project, places: Sequence[Ranked], scored: Mapping[int, Scored]
) -> Mapping[int, Scored]:
    """What was scored, with the uncertainty layers of those places that get one."""
    if all(each.hesitation is None for each in scored.values()):
        return scored
    # As it is now: without the control Label Studio would drop each prediction that holds a layer.
    xml = work.studio.project(row.studio_id).label_config
    if not has_layer_control(xml):
        return scored
    config = label_config_of(xml, work.options(row))
    return with_layers(places, scored, config.image_name)


def _that_can_be_sent(scored: Mapping[int, Scored]) -> tuple[dict[int, Scored], list[str]]:
    """What was scored, without the tasks whose regions no request can carry: a sentence for each.

    They are left out before the ranking: others take their places, and what can never be published
    must not count among what a next round could put in the queue.
    """
    fitting: dict[int, Scored] = {}
    problems: list[str] = []
    for task_id, found in scored.items():
        if len(found.result) <= LARGEST_RESULT:
            fitting[task_id] = found
            continue
        problems.append(
            f"Task {task_id}: its pre-annotation is {len(found.result) / 1e6:.0f} MB, over the "
            f"{LARGEST_RESULT / 1e6:.0f} MB that Label Studio is sent at once. {_FEWER_REGIONS}"
        )
    return fitting, problems


def _within_bounds(
    places: Sequence[Ranked], scored: Mapping[int, Scored], problems: list[str]
) -> Sequence[Ranked]:
    """The head of the places, as far as its regions are no more than a publication may store."""
    total = 0
    for count, place in enumerate(places):
        total += len(scored[place.task_id].result)
        if total > LARGEST_PUBLICATION:
            problems.append(
                f"The queue holds {count} instead of {len(places)} tasks: the pre-annotations of "
                f"more are over {LARGEST_PUBLICATION / 1e6:.0f} MB, too much for Label Studio. "
                f"{_FEWER_REGIONS}"
            )
            return places[:count]
    return places


_FEWER_REGIONS = 'Set the option regions to "class", or min_particle_px higher.'


def _warn_of_many_brushes(
    places: Sequence[Ranked], scored: Mapping[int, Scored], problems: list[str]
) -> None:
    """Say which pre-annotations freeze the editor: only ``regions=particle`` makes as many."""
    counts = {p.task_id: _brushes(scored[p.task_id].result) for p in places}
    many = {task_id: count for task_id, count in counts.items() if count > MOST_BRUSHES}
    if many:
        worst = max(many, key=lambda task_id: many[task_id])
        problems.append(
            f"{len(many)} of {len(places)} pre-annotations have more than {MOST_BRUSHES} brush "
            f"regions (task {worst} has {many[worst]}), and Label Studio's editor freezes on such: "
            'set the option regions to "class", or min_particle_px higher.'
        )


def _brushes(result: bytes) -> int:
    # orjson writes no blanks, and a quote within a label is escaped.
    return sum(result.count(b'"type":"%b"' % kind) for kind in _BRUSHES)


_BRUSHES = (b"brushlabels", b"bitmasklabels", b"brush", b"bitmask")


@dataclass(frozen=True)
class Ranking:
    """A queue to publish, and what it was made by.

    Attributes:
        places: head first.
        mode: the option that made the weights, or ``FALLBACK``.
        weights: arm to weight.
        arm_quantiles: of the weighted arms.
    """

    places: Sequence[Ranked]
    mode: str
    weights: Mapping[str, float]
    arm_quantiles: Mapping[str, Sequence[float]]


def _rank(
    work: Workplace,
    row: Project,
    round_: Round,
    version: int,
    scored: Mapping[int, Scored],
    chosen: Result,
) -> Ranking:
    options = work.options(row)
    length = options.queue_length or work.settings.queue_length
    audits = {t for t in scored if is_audit(row.slug, t, options.audit_fraction)}
    seed, drawn = options.seed + round_.id, chosen.get("drawn")
    if version == NO_VERSION:
        places = first_rank(scored, audits, length, seed=seed, drawn=drawn)
        by_chance = any(place.why == "chance" for place in places)
        return Ranking(places, "random" if by_chance else options.mode, {}, {})
    ranks = next(v for v in work.ledger.versions.all(row.id) if v.number == version)
    mode = mode_of(options, ranks)
    weights = weights_of(mode, trust_of(work.ledger, row.id))
    counts = ranks.metrics.get("labelled_images")  # an earlier release did not count them
    known = None if counts is None else [counts[name] for name in ranks.classes]
    groups = chosen.get("unknown_groups", {})
    places = rank(
        scored, audits, weights, length, seed=seed, known=known, drawn=drawn, groups=groups
    )
    return Ranking(places, mode, weights, arm_quantiles(scored, weights))


def _stored_already(
    work: Workplace, row: Project, round_: Round, held: Mapping[str, int]
) -> Publication | None:
    """A publication that an earlier attempt of this round had stored whole before it died."""
    found = None
    for publication in work.ledger.publications.all(row.id):
        if publication.round_id != round_.id:
            continue
        whole = held.get(publication.name, 0) == publication.length
        if publication.state in ("prepared", "serving") and whole and found is None:
            found = publication
        elif publication.state == "prepared":
            work.ledger.publications.set_state(publication.id, "failed")
    return found


def _store_what_is_there(
    work: Workplace,
    row: Project,
    round_: Round,
    version: int,
    ranking: Ranking,
    scored: Mapping[int, Scored],
    held: Collection[str],
) -> tuple[Publication, int]:
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
        there = {task.id for task in work.studio.tasks(row.studio_id, ids=ids)}
        left = [place for place in ranking.places if place.task_id in there]
        if not left or len(left) == len(ids):
            raise
        log.info("%d ranked tasks were deleted meanwhile", len(ids) - len(left))
        ranking = replace(ranking, places=left)
        return _store_head(work, row, round_, version, ranking, scored, held)


def _store_head(
    work: Workplace,
    row: Project,
    round_: Round,
    version: int,
    ranking: Ranking,
    scored: Mapping[int, Scored],
    held: Collection[str],
) -> tuple[Publication, int]:
    """Write the publication to the ledger and its predictions to Label Studio.

    They may take several POSTs. Nobody sees them before ``set_order``; a publication that was
    interrupted between two stays out of sight under its name, which no other attempt takes, until
    it is cleaned up.

    Returns:
        The publication, and how many predictions Label Studio stored.
    """
    head, weights = ranking.places, ranking.weights
    publication = work.ledger.publications.prepare(
        row.id,
        version,
        round_.id,
        arm=max(weights, key=lambda arm: weights[arm], default=""),
        quantiles=queue_quantiles([place.uncertainty for place in head]),
        places=[
            Place(
                task_id=each.task_id,
                position=position,
                uncertainty=each.uncertainty,
                audit=each.why == "audit",
                arms=dict(scored[each.task_id].arms),
                why=each.why,
            )
            for position, each in enumerate(head)
        ],
        taken=held,
        elsewhere=any(
            each.number == version and is_from_elsewhere(each)
            for each in work.ledger.versions.all(row.id)
        ),
        mode=ranking.mode,
        weights=weights,
        arm_quantiles=ranking.arm_quantiles,
    )
    predictions = [
        StoredPrediction(
            task=place.task_id,
            result=orjson.Fragment(scored[place.task_id].result),
            score=place_score(position, len(head)),
            model_version=publication.name,
        )
        for position, place in enumerate(head)
    ]
    try:
        stored = work.studio.import_predictions(row.studio_id, predictions)
    except StudioRefused:
        work.ledger.publications.set_state(publication.id, "failed")
        raise
    if stored == 0:
        work.ledger.publications.set_state(publication.id, "failed")
        raise StudioRefused(
            f"Label Studio stored none of {len(predictions)} predictions and gave no reason: "
            "run `python -m backend doctor`.",
            422,
        )
    return publication, stored


def place_score(position: int, length: int) -> float:
    """The score of a place in the queue: in (0, 1), the head lowest, as Label Studio serves it."""
    return (position + 0.5) / length
