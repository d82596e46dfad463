"""Trained members become a version."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from backend.errors import NotEnoughLabels
from backend.ledger.ledger import Row
from backend.rounds.audits import audit_metrics
from backend.rounds.stages.fit import load_examples, member_file
from backend.rounds.stages.outcome import Outcome, Progress
from backend.workplace import Workplace
from training.committee.registry import load_weights
from training.config import TrainConfig
from training.errors import TrainingError
from training.examples import Example, images_showing
from training.networks.build import check_allowed
from training.quality.assessment import Assessment, Verdict, assess, compare

log = logging.getLogger(__name__)


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
        assessment.committee.keep_compiled(folder, work.registry.seal)
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


def labelled_images(examples: Iterable[Example], classes: Sequence[str]) -> dict[str, int]:
    """Class name to how many of the examples show it."""
    counts = images_showing((example.mask for example in examples), len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _audit(work: Workplace, round_: Row, slug: str, assessment: Assessment) -> dict[str, Any]:
    project_id, manifest = round_["project_id"], round_["manifest"]
    audits = load_examples(work, slug, [e for e in manifest if e["audit"]], audits=True)
    evidence = work.ledger.evidence(project_id)
    chance = {str(row["task_id"]) for row in evidence if row["chosen_for"] == "chance"}
    truths = {str(e["task"]): e["digest"] for e in manifest if e["digest"] is not None}
    former = [row for row in work.ledger.versions(project_id) if row["state"] == "promoted"]
    return audit_metrics(assessment, audits, chance, truths, former[::-1])
