"""What a webhook means: which events of Label Studio are kept, and which ids they name."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from backend.label_studio.webhook_events import (
    OF_ANNOTATIONS,
    OF_LABEL_LINKS,
    OF_TASKS,
    PROJECT_UPDATED,
)
from backend.web.messages import Event, Ignored, Kept
from backend.workplace import Workplace

log = logging.getLogger(__name__)


def record_event(work: Workplace, event: Event) -> Kept | Ignored:
    """Write an event to the ledger, before Label Studio is answered.

    Raises:
        LedgerUnavailable: nothing was written; a reconciliation will find what changed.
    """
    sent, action = event.project, event.action
    project = work.ledger.projects.ensure(work.server, sent.studio_id, sent.created)
    if not project.connected:
        return {"ignored": "the project is not connected"}
    ids: list[int] = []
    if action == PROJECT_UPDATED:
        if sent.label_config is None or sent.label_config == project.label_config:
            return {"ignored": "nothing that matters here changed"}  # or our own PATCH
        work.ledger.projects.update(project.id, label_config=sent.label_config)
    elif action in OF_ANNOTATIONS:
        ids = ids_of(event.annotations or event.annotation)
    elif action in OF_TASKS:
        ids = ids_of(event.tasks)
    elif action in OF_LABEL_LINKS:
        return {"ignored": "links between labels do not concern training"}
    elif action != "START_TRAINING":
        log.info("an action that is not known here was ignored: %s", action[:60])
        return {"ignored": f"{action[:60]} is not known here"}
    return {"event": work.ledger.events.add(project.id, action, ids)}


def ids_of(rows: object) -> list[int]:
    """The ids of one object, or of a list of them; of what was deleted nothing else is sent."""
    if isinstance(rows, Mapping):
        rows = [rows]
    if not isinstance(rows, list):
        return []
    return [
        row["id"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("id"), int)
    ]
