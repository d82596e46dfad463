"""One member is trained on the round's examples."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from backend.ledger.ledger import Row
from backend.rounds.stages.outcome import Outcome, Progress
from backend.workplace import Workplace
from training.committee.registry import save_weights
from training.config import TrainConfig
from training.examples import Example
from training.fitting.fit import fit_member
from training.networks.build import check_allowed

log = logging.getLogger(__name__)


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
