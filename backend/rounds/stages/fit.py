"""One member is trained on the round's examples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from backend.ledger import Outcome, Round
from backend.ledger.shapes import FitPayload, ManifestEntry, Result
from backend.rounds.elsewhere import start_of_member
from backend.workplace import Workplace
from training.committee.registry import save_weights
from training.config import TrainConfig
from training.examples import Example
from training.fitting.fit import fit_member
from training.networks.build import check_allowed

log = logging.getLogger(__name__)


def fit(
    work: Workplace, round_: Round, payload: FitPayload, tick: Callable[[float], None]
) -> Outcome:
    """Train one member; its weights wait in the round's scratch folder."""
    slug = work.ledger.projects.get(round_.project_id).slug
    config = config_of(round_, plain=payload.get("plain", False))
    check_allowed(config, work.registry.own_network)
    member = payload["member"]
    name = member_file(member, plain=payload.get("plain", False))
    result: Result = {"member": member}
    if not work.registry.has_round(slug, round_.id, name):
        examples = load_examples(work, slug, round_.manifest or (), audits=False)
        weights, history = fit_member(
            examples,
            config,
            member,
            progress=lambda done, of: tick(done / of),
            start=start_of_member(work, round_.project_id, config, member),
        )
        work.registry.put_round(slug, round_.id, name, save_weights(weights))
        log.info(
            "member %d of round %d: loss %.3f at the end, after %.0f s",
            member,
            round_.id,
            history.loss[-1],
            history.seconds,
        )
        result["seconds"] = history.seconds
    return Outcome(result=result)


def config_of(round_: Round, *, plain: bool = False) -> TrainConfig:
    """How a training round's members are made, once it has collected its labels.

    Args:
        plain: of those that are made for comparison, without the version that the others begin
            with.
    """
    assert round_.config is not None  # collect is its first stage
    config = TrainConfig.from_json(round_.config)
    return replace(config, start="") if plain else config


def member_file(member: int, *, plain: bool = False) -> str:
    return f"{'plain-' if plain else ''}member-{member:02d}.safetensors"


def load_examples(
    work: Workplace, slug: str, manifest: Iterable[ManifestEntry], *, audits: bool
) -> list[Example]:
    """The manifest's examples, without the audit's unless asked for."""
    digests = [
        entry["digest"]
        for entry in manifest
        if entry["digest"] is not None and (audits or not entry["audit"])
    ]
    work.registry.bring_examples(slug, digests)
    return [work.registry.get_example(slug, digest) for digest in digests]
