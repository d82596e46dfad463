"""New labels judge the version that had not seen them: the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from backend.ledger import Evidence, Outcome, Round
from backend.ledger.shapes import FitPayload, JudgePayload, ManifestEntry
from backend.rounds.elsewhere import learnt_elsewhere
from backend.rounds.evidence import truth_for
from backend.rounds.stages.fit import config_of
from backend.workplace import Workplace
from training.committee.store.store import StoreUnavailable
from training.config import BadConfig, TrainConfig
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.committee.committee import Committee


def judge(
    work: Workplace, round_: Round, payload: JudgePayload, tick: Callable[[float], None]
) -> Outcome:
    """Look at newly labelled images by a version that never saw the labels: which measure saw
    its errors?"""
    row = work.ledger.projects.get(round_.project_id)
    config = config_of(round_)
    manifest = round_.manifest or []
    entries = {entry["task"]: entry for entry in manifest}
    before = {each.task_id: each for each in work.ledger.evidence.all(row.id)}
    chosen_for = work.ledger.publications.chosen_for(row.id, labelled_at(manifest))
    elsewhere = learnt_elsewhere(
        work.ledger,
        row.id,
        (work.registry.get_example(row.slug, digest) for _, digest, _ in payload["tasks"]),
    )
    judged: list[Evidence] = []
    withdrawn: list[int] = []
    judges: dict[int, Committee | None] = {}
    problems: list[str] = []
    for done, (task_id, digest, number) in enumerate(payload["tasks"]):
        if number not in judges:
            try:
                judges[number] = _judge_of(work, row.slug, number, config)
            except StoreUnavailable:
                raise
            except TrainingError as error:
                judges[number] = None
                problems.append(f"Version {number} cannot judge new labels: {error}")
        committee = judges[number]
        if committee is None:
            if task_id in before:
                withdrawn.append(task_id)  # it was of the label before it was edited
            continue
        if str(task_id) in elsewhere:
            continue  # the version that judges may have learnt from it
        example = work.registry.get_example(row.slug, digest)
        former = before.get(task_id)
        prediction = committee.predict(example.image)
        h, w = prediction.predicted.shape
        truth = truth_for(example.mask, (h, w), config.classes, committee.config.classes)
        found = prediction.judge(truth)
        judged.append(
            Evidence(
                task_id=task_id,
                round_id=round_.id if former is None else former.round_id,
                version=number,
                stamp=entries[task_id]["stamp"] or "",
                rewards=dict(found.rewards),
                scores=dict(prediction.arms),
                error=found.error,
                wrong=found.wrong,
                judged=found.judged,
                audit=entries[task_id]["audit"],
                chosen_for=chosen_for.get(task_id, "") if former is None else former.chosen_for,
            )
        )
        tick((done + 1) / len(payload["tasks"]))
    return Outcome(
        result={"judged": len(judged)},
        next_payloads=_fits(work, round_, config),
        problems=problems,
        judged=judged,
        withdrawn=withdrawn,
    )


def _fits(work: Workplace, round_: Round, config: TrainConfig) -> list[FitPayload]:
    """The members to train: twice as many where it is to be seen which beginning is better."""
    fits = [FitPayload(member=member) for member in range(config.members)]
    collected = work.ledger.parts.results(round_.id, "collect")
    if collected and collected[0].get("both_starts"):
        fits += [FitPayload(member=member, plain=True) for member in range(config.members)]
    return fits


def labelled_at(manifest: Iterable[ManifestEntry]) -> dict[int, float]:
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
        raise BadConfig(f"it sees {', '.join(gone)}, which the label config does not have any more")
    return committee
