"""Why the queue is as it is: which measure is trusted, on what evidence, and why a task stands
where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.errors import BadRequest
from backend.insight.measure_weights import QueueWeights, measure_weights
from backend.insight.read_model import Json, to_json
from backend.insight.status import first_queue
from backend.ledger import Evidence, Place, Project, Publication
from backend.outside_score import percentile_between
from backend.rounds.audits import advice
from backend.workplace import Workplace

if TYPE_CHECKING:
    from acquisition.adaptive import Trust
    from backend.options import ProjectOptions

SHOWN_ARMS = 3
"""Arms whose percentile is shown of a task: after a few the weights fall off quickly."""


@dataclass(frozen=True)
class ServingQueue:
    """The publication that serves; ``mode`` and ``weights`` are None if schema 0001 kept it."""

    name: str
    version: int
    length: int
    mode: str | None
    weights: Mapping[str, float] | None


@dataclass(frozen=True)
class ArmWeight:
    arm: str
    weight: float


@dataclass(frozen=True)
class ArmReward:
    arm: str
    reward: float


@dataclass(frozen=True)
class Leader:
    """The arm of the largest reward in the last round that had errors.

    Attributes:
        weight: Hedge's, of all rounds, and so ``heaviest`` may be another arm.
        queue_weight: what the option ``mode`` makes of it.
        auroc: share of pixel pairs, wrong and right, in which the wrong one was more uncertain.
        next_best: the best arm of another measure.
        images: corrected images of that round, with ``wrong_px`` wrong pixels.
        corrections: how many the rank correlation looked back on.
    """

    arm: str
    weight: float
    queue_weight: float
    heaviest: ArmWeight
    round: int
    reward: float
    auroc: float
    next_best: ArmReward
    images: int
    wrong_px: int
    correlation: float
    corrections: int


@dataclass(frozen=True)
class MeasureWeight:
    """A measure's weight in all its arms; ``auroc`` None before it was judged."""

    measure: str
    auroc: float | None
    weight: float


@dataclass(frozen=True)
class RoundEvidence:
    """The evidence of one round's corrections.

    Attributes:
        versions: that were judged by them.
        telling: images with enough wrong pixels to tell the measures apart, audits not counted.
    """

    round: int
    images: int
    audits: int
    versions: Sequence[int]
    wrong_px: int
    telling: int


@dataclass(frozen=True)
class ArmPercentile:
    """Share of the predicted images in which this arm's score is lower than the task's."""

    arm: str
    weight: float
    percentile: float


@dataclass(frozen=True)
class QueuePlace:
    """A task's place, counted from 1; ``why`` is a key of ``explain_text.WHYS``."""

    position: int
    length: int
    why: str
    uncertainty: float
    arms: Sequence[ArmPercentile]


@dataclass(frozen=True)
class Judgement:
    """The evidence of an annotator's corrections of one task.

    Attributes:
        error: share of the judged pixels that were corrected.
        chosen_for: what had put the task into the queue; "" where no queue did.
        aurocs: by measure; empty where too few pixels were wrong.
    """

    round: int
    version: int
    error: float
    wrong_px: int
    judged_px: int
    chosen_for: str
    audit: bool
    aurocs: Mapping[str, float]


@dataclass(frozen=True)
class TaskExplanation:
    """Where one task stands.

    Attributes:
        state: unlabelled, labelled or skipped.
        absent: why it has no place.
    """

    task: int
    state: str
    place: QueuePlace | None
    absent: str | None
    judged: Judgement | None


@dataclass(frozen=True)
class Explanation:
    """What decides a project's queue.

    Attributes:
        mode: the project's option.
        arms: how many there are; an arm is a measure with a way to make its map one number.
        leader: None before the first evidence.
        measures: the heaviest first.
        queues: what the measures counted for in the newest queues, oldest first.
        task: None if no task was asked for.
    """

    project: int
    title: str
    mode: str
    members: int
    version: int | None
    publication: ServingQueue | None
    advice: str | None
    first_queue: str | None
    arms: int
    leader: Leader | None
    measures: Sequence[MeasureWeight]
    evidence: Sequence[RoundEvidence]
    queues: Sequence[QueueWeights]
    task: TaskExplanation | None = None

    def to_json(self) -> Json:
        found: Json = to_json(self)
        if self.task is None:
            del found["task"]
        return found


def explain(work: Workplace, studio_id: int, task_id: int | None = None) -> Explanation:
    """What decides a project's queue.

    Args:
        studio_id: Label Studio's number of the project.
        task_id: also where this task stands.

    Raises:
        UnknownProject: it was never connected.
        BadRequest: it has no such task.
    """
    from backend.rounds.evidence import trust_in

    project = work.ledger.projects.of_studio(work.server, studio_id)
    evidence = work.ledger.evidence.all(project.id)
    trust = trust_in(evidence)
    serving = work.ledger.publications.serving(project.id)
    version = work.ledger.versions.promoted(project.id)
    options = work.options(project)
    wanted = options.members or work.settings.members
    task = None if task_id is None else _task(work, project, serving, evidence, task_id)
    return Explanation(
        project=studio_id,
        title=project.title,
        mode=options.mode,
        members=wanted if version is None else version.members,
        version=None if version is None else version.number,
        publication=None if serving is None else _serving_queue(serving),
        advice=None if version is None else advice(version.metrics),
        first_queue=None if version is not None else first_queue(serving),
        arms=len(trust.weights),
        leader=_leader(trust, evidence, options),
        measures=_measures(trust),
        evidence=_by_round(evidence),
        queues=measure_weights(work.ledger, project.id),
        task=task,
    )


def _serving_queue(serving: Publication) -> ServingQueue:
    return ServingQueue(
        serving.name, serving.version, serving.length, serving.mode, serving.weights
    )


def _leader(trust: Trust, evidence: Sequence[Evidence], options: ProjectOptions) -> Leader | None:
    from backend.rounds.evidence import steering
    from backend.rounds.ranking import weights_of

    if trust.leader is None:
        return None
    measure = trust.leader.partition("/")[0]
    counted = steering(evidence)
    last = max(row.round_id for row in counted if row.rewards)
    of_last = [row for row in counted if row.rewards and row.round_id == last]
    others = {arm: r for arm, r in trust.rewards.items() if arm.partition("/")[0] != measure}
    next_best = max(others, key=lambda arm: others[arm])
    heaviest = max(trust.weights, key=lambda arm: trust.weights[arm])
    return Leader(
        arm=trust.leader,
        weight=trust.weights[trust.leader],
        queue_weight=weights_of(options.mode, trust).get(trust.leader, 0.0),
        heaviest=ArmWeight(heaviest, trust.weights[heaviest]),
        round=last,
        reward=trust.rewards[trust.leader],
        auroc=_auroc(trust.pixel_rewards[measure]),
        next_best=ArmReward(next_best, others[next_best]),
        images=len(of_last),
        wrong_px=sum(row.wrong for row in of_last),
        correlation=trust.correlations[trust.leader],
        corrections=_compared([row.round_id for row in counted if row.round_id <= last]),
    )


def _compared(batches: Sequence[int]) -> int:
    """Corrections that the rank correlation looked back on, as ``adaptive.RECENT`` says."""
    from acquisition.adaptive import RECENT

    oldest = sorted(batches)[-RECENT:][0]
    return sum(batch >= oldest for batch in batches)


def _auroc(reward: float) -> float:
    return (reward + 1) / 2


def _measures(trust: Trust) -> list[MeasureWeight]:
    from acquisition.uncertainty import MEASURES

    weights = dict.fromkeys(MEASURES, 0.0)
    for arm, weight in trust.weights.items():
        weights[arm.partition("/")[0]] += weight
    return [
        MeasureWeight(
            measure=name,
            auroc=_auroc(trust.pixel_rewards[name]) if trust.pixel_rewards else None,
            weight=weights[name],
        )
        for name in sorted(weights, key=lambda name: -weights[name])
    ]


def _by_round(evidence: Sequence[Evidence]) -> list[RoundEvidence]:
    found = []
    for number in sorted({row.round_id for row in evidence}):
        rows = [row for row in evidence if row.round_id == number]
        found.append(
            RoundEvidence(
                round=number,
                images=len(rows),
                audits=sum(row.audit for row in rows),
                versions=sorted({row.version for row in rows}),
                wrong_px=sum(row.wrong for row in rows),
                # With too few wrong pixels an image tells nothing about the measures.
                telling=sum(bool(row.rewards) and not row.audit for row in rows),
            )
        )
    return found


def _task(
    work: Workplace,
    project: Project,
    serving: Publication | None,
    evidence: Sequence[Evidence],
    task_id: int,
) -> TaskExplanation:
    task = next(iter(work.studio.tasks(project.studio_id, ids=[task_id])), None)
    if task is None:
        raise BadRequest(f"Project {project.studio_id} has no task {task_id}.")
    state = "labelled" if task.annotations else "skipped" if task.skipped else "unlabelled"
    ranked = [] if serving is None else work.ledger.publications.ranking(serving.id)
    place = next((each for each in ranked if each.task_id == task_id), None)
    judged = next((each for each in evidence if each.task_id == task_id), None)
    absent = None
    if serving is None:
        absent = "no queue serves yet"
    elif place is None:
        absent = _why_absent(work, serving, task_id, state)
    return TaskExplanation(
        task=task_id,
        state=state,
        place=None if place is None or serving is None else _queue_place(serving, place),
        absent=absent,
        judged=None if judged is None else _judgement(judged),
    )


def _queue_place(serving: Publication, place: Place) -> QueuePlace:
    return QueuePlace(
        position=place.position + 1,
        length=serving.length,
        why=place.why,
        uncertainty=place.uncertainty,
        arms=_percentiles(serving, place),
    )


def _why_absent(work: Workplace, serving: Publication, task_id: int, state: str) -> str:
    if state != "unlabelled":
        return f"it has been {state}, and the queue holds only unlabelled tasks"
    scored = {
        candidate
        for payload in work.ledger.parts.to_score(serving.round_id)
        for candidate, _ in payload["tasks"]
    }
    if task_id not in scored:
        return "it was no candidate: it came later, or chance left it out"
    problems = work.ledger.rounds.get(serving.round_id).problems
    refused = next((each for each in problems if each.startswith(f"Task {task_id}: ")), None)
    if refused is not None:
        return f"its image could not be used ({refused})"
    return f"it was scored, and {serving.length} others filled the queue (QUEUE_LENGTH)"


def _percentiles(serving: Publication, place: Place) -> list[ArmPercentile]:
    """Where the task stands among all that were scored, by the heaviest arms."""
    weights, quantiles = serving.weights or {}, serving.arm_quantiles or {}
    heaviest = sorted(weights, key=lambda arm: -weights[arm])[:SHOWN_ARMS]
    return [
        ArmPercentile(arm, weights[arm], percentile_between(place.arms[arm], quantiles[arm]))
        for arm in heaviest
    ]


def _judgement(row: Evidence) -> Judgement:
    return Judgement(
        round=row.round_id,
        version=row.version,
        error=row.error,
        wrong_px=row.wrong,
        judged_px=row.judged,
        chosen_for=row.chosen_for,
        audit=row.audit,
        aurocs={name: _auroc(reward) for name, reward in row.rewards.items()},
    )
