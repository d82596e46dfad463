"""Removes what ended rounds left, and our superseded predictions from Label Studio."""

from __future__ import annotations

import time

from backend.ledger import Ledger, Project
from backend.rounds.retention import prune
from backend.workplace import Workplace

LOCK_TTL_S = 24 * 3600
"""Label Studio keeps a served task for its annotator this long by default (TASK_LOCK_TTL)."""

QUIET_BEFORE_DELETE_S = 600.0
"""A big delete stalls Label Studio's SQLite: wait until nobody has labelled for this long."""


def clean_project(work: Workplace, project: Project) -> None:
    """Remove what is older than is kept; in a quiet moment also superseded predictions, once
    nobody can hold them open."""
    ledger = work.ledger
    # Of a round that was cancelled or failed; its worker may have written on for a while.
    work.registry.prune_rounds(
        project.slug, lambda round_id: _has_ended(ledger, project.id, round_id)
    )
    if ledger.rounds.active(project.id) is not None:
        return
    prune(work, project)
    last_event_at = ledger.events.last_at(project.id) or 0.0
    if time.time() - last_event_at > QUIET_BEFORE_DELETE_S:
        _delete_superseded(work, project)


def _delete_superseded(work: Workplace, project: Project) -> None:
    publications = work.ledger.publications
    stored = work.studio.model_versions(project.studio_id)
    serves = work.studio.project(project.studio_id).model_version
    for publication in publications.all(project.id):
        if publication.state == "prepared" and publication.name != serves:
            # Its round ended before it served; from now on it counts as superseded.
            publications.set_state(publication.id, "failed")
            continue
        superseded_at = publication.superseded_at
        if publication.state not in ("superseded", "failed") or superseded_at is None:
            continue
        if time.time() - superseded_at < LOCK_TTL_S:
            continue
        if publication.name in stored:
            work.studio.delete_model_version(project.studio_id, publication.name)
        publications.set_state(publication.id, "deleted")


def _has_ended(ledger: Ledger, project_id: int, round_id: int) -> bool:
    active = ledger.rounds.active(project_id)
    return active is None or active.id != round_id
