"""Trained members become a version."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from backend.errors import NotEnoughLabels
from backend.ledger import Outcome, Round, Version
from backend.ledger.shapes import Metrics, NoPayload, StartChoice
from backend.rounds.audits import audit_metrics
from backend.rounds.elsewhere import is_from_elsewhere, learnt_elsewhere, start_version
from backend.rounds.stages.fit import config_of, load_examples, member_file
from backend.workplace import Workplace
from training.committee.registry import load_weights
from training.committee.store.store import StoreUnavailable, VersionTaken
from training.committee.version import read_version
from training.config import TrainConfig
from training.errors import TrainingError
from training.examples import Example, image_digest, images_showing
from training.figures.contact_sheet import version_sheet
from training.networks.build import Weights, check_allowed
from training.quality.assessment import Assessment, assess
from training.quality.metrics import paired_bootstrap
from training.quality.promotion import Verdict, compare

log = logging.getLogger(__name__)


def assemble(
    work: Workplace, round_: Round, payload: NoPayload, tick: Callable[[float], None]
) -> Outcome:
    """Members to a version: calibrated, compared with the one that ranks now, promoted or kept."""
    project_id = round_.project_id
    slug = work.ledger.projects.get(project_id).slug
    config = config_of(round_)
    check_allowed(config, work.registry.own_network)
    manifest, number = round_.manifest or [], round_.version
    assert number is not None  # every training round has one
    examples = load_examples(work, slug, manifest, audits=False)
    audits = load_examples(work, slug, [e for e in manifest if e["audit"]], audits=True)
    elsewhere = learnt_elsewhere(work.ledger, project_id, [*examples, *audits])
    made, choice = _read_made(work, round_, slug, examples, elsewhere, tick), None
    if _tries_both(work, round_):
        plain = _read_made(work, round_, slug, examples, elsewhere, tick, plain=True)
        made, choice = better_made(made, plain)
    weights, assessment = made.weights, made.assessment
    config = assessment.config
    former = work.ledger.versions.promoted(project_id)
    if former is not None and former.number == number:
        # This very version, promoted by an attempt that died before its part was finished.
        return Outcome(result={"version": number, "promoted": True})
    verdict = _compare(work, slug, former, assessment, examples)
    metrics = cast(
        Metrics,
        {
            **assessment.metrics,
            "labelled_images": labelled_images(examples, config.classes),
            **_training(work, round_),
            **_audit(work, round_, assessment, [a for a in audits if a.key not in elsewhere]),
            **({"learnt_elsewhere": sorted(elsewhere)} if elsewhere else {}),
            **({"start_choice": choice} if choice else {}),
        },
    )
    learnt = {"round": round_.id, "entries": manifest, **_images(work, round_, config, examples)}
    measured = [example for example in examples if example.key not in elsewhere]
    sheet = version_sheet(assessment.committee, measured, assessment.scores)
    try:
        folder = work.registry.save_version(
            slug, number, weights, config, learnt, metrics, sheet, assessment.predicted
        )
    except VersionTaken:
        stored = read_version(work.registry.version_path(slug, number))
        if json.dumps(stored.manifest) != json.dumps(learnt):
            raise
        # Of the same labels: an attempt at this part wrote it that died, or lost its lease.
        metrics = cast(Metrics, stored.metrics)
    else:
        if not assessment.problems:
            # Once here, and not by each that scores and serves with it.
            assessment.committee.keep_compiled(folder, work.registry.seal)
    work.ledger.versions.record(
        project_id,
        number,
        round_.id,
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


class Made(NamedTuple):
    """A round's members, and how good they are."""

    weights: list[Weights]
    assessment: Assessment


def _read_made(
    work: Workplace,
    round_: Round,
    slug: str,
    examples: Sequence[Example],
    elsewhere: Collection[str],
    tick: Callable[[float], None],
    *,
    plain: bool = False,
) -> Made:
    config = config_of(round_, plain=plain)
    weights = [
        load_weights(work.registry.get_round(slug, round_.id, member_file(member, plain=plain)))
        for member in range(config.members)
    ]
    assessment = assess(
        weights,
        config,
        examples,
        progress=tick,
        engine=work.settings.engine,
        unmeasured=elsewhere,
        groups={str(e["task"]): e["group"] for e in round_.manifest or () if "group" in e},
    )
    return Made(weights, assessment)


def _images(
    work: Workplace, round_: Round, config: TrainConfig, examples: Iterable[Example]
) -> dict[str, list[str]]:
    """Digests of the images that a version learnt from, and of those that its ancestors did."""
    start = start_version(work.ledger, round_.project_id) if config.start else None
    return {
        "images": sorted({image_digest(example.image) for example in examples}),
        "ancestors": [] if start is None else start.metrics["started_from"]["images"],
    }


def _tries_both(work: Workplace, round_: Round) -> bool:
    collected = work.ledger.parts.results(round_.id, "collect")
    return bool(collected and collected[0].get("both_starts"))


def better_made(begun: Made, plain: Made) -> tuple[Made, StartChoice]:
    """Of members that began with the version from elsewhere and others that did not, those of the
    higher foreground Dice, out of fold on the same images; unfit ones never."""
    keys = sorted(begun.assessment.scores)
    difference = paired_bootstrap(
        [plain.assessment.scores[key] for key in keys],
        [begun.assessment.scores[key] for key in keys],
        begun.assessment.config.seed,
    )
    fit = [not each.assessment.problems for each in (begun, plain)]
    keeps = difference.mean >= 0 if fit[0] == fit[1] else fit[0]
    choice = StartChoice(
        begun=keeps,
        images=len(keys),
        mean=difference.mean,
        low=difference.low,
        high=difference.high,
        pairs=difference.pairs,
    )
    return begun if keeps else plain, choice


def _compare(
    work: Workplace,
    slug: str,
    former: Version | None,
    assessment: Assessment,
    examples: Sequence[Example],
) -> Verdict:
    """The new version beside the one that ranks now, if that one can still be read."""
    seed = assessment.config.seed
    if former is None:
        return compare(None, assessment, examples, seed)
    try:
        old = work.registry.load(slug, former.number)
    except StoreUnavailable:
        raise
    except TrainingError as error:
        log.warning("version %d of %s cannot be read: %s", former.number, slug, error)
        verdict = compare(None, assessment, examples, seed)
        reason = f"Version {former.number} cannot be read, so there is nothing to compare with."
        return replace(verdict, reason=reason) if verdict.promote else verdict
    return compare(old, assessment, examples, seed)


def labelled_images(examples: Iterable[Example], classes: Sequence[str]) -> dict[str, int]:
    """Class name to how many of the examples show it."""
    counts = images_showing((example.mask for example in examples), len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _training(work: Workplace, round_: Round) -> Metrics:
    """What the round trained by, with the speed that its members had."""
    collected = work.ledger.parts.results(round_.id, "collect")
    budget = collected[0].get("budget") if collected else None
    if budget is None:
        return {}  # release 0.2.0 began this round
    # A member that was there already, when its part was run again, says nothing of its time.
    fits = work.ledger.parts.results(round_.id, "fit")
    if taken := [result["seconds"] for result in fits if "seconds" in result]:
        budget = {**budget, "step_s": statistics.median(taken) / budget["steps"]}
    return {"budget": budget}


def _audit(
    work: Workplace, round_: Round, assessment: Assessment, audits: Sequence[Example]
) -> Metrics:
    project_id, manifest = round_.project_id, round_.manifest or []
    evidence = work.ledger.evidence.all(project_id)
    chance = {str(row.task_id) for row in evidence if row.chosen_for == "chance"}
    truths = {str(e["task"]): e["digest"] for e in manifest if e["digest"] is not None}
    # Its own row is there already where an attempt died after writing it.
    former = [
        version
        for version in work.ledger.versions.all(project_id)
        if version.round_id != round_.id and not is_from_elsewhere(version)
    ]
    return audit_metrics(assessment, audits, chance, truths, former[::-1])
