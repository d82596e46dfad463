"""What a webhook means: which events of Label Studio are kept, and which ids they name."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from itertools import islice

from backend.errors import WebhookRefused
from backend.label_studio.webhook_events import (
    OF_ANNOTATIONS,
    OF_LABEL_LINKS,
    OF_TASKS,
    PROJECT_UPDATED,
    START_TRAINING,
)
from backend.label_studio.webhook_secret import name_of
from backend.ledger import Project
from backend.logs import bind
from backend.web.messages import Event, Ignored, Kept
from backend.workplace import Workplace

log = logging.getLogger(__name__)

MOST_IDS = 100
"""Ids that are kept of an event: they are for people who read the ledger, and say no more when
there are many."""


def record_event(work: Workplace, event: Event, secret: str | None = None) -> Kept | Ignored:
    """Write an event to the ledger, before Label Studio is answered.

    Nothing else of it is kept: the check that follows asks Label Studio itself.

    Args:
        secret: the name of the webhook's secret that came with it; None: the web's password did.

    Raises:
        LedgerUnavailable: nothing was written; a reconciliation will find what changed.
        WebhookRefused: the secret does not open this.
    """
    sent, action = event.project, event.action
    project = work.ledger.projects.find(work.server, sent.studio_id, sent.created)
    if secret is not None:
        _check_secret(secret, project, action)
    if project is not None:
        bind(project=project.id)
    if project is None or not project.connected:
        return {"ignored": "the project is not connected"}
    ids: list[int] = []
    if action == PROJECT_UPDATED:
        if sent.label_config is None or sent.label_config == project.label_config:
            return {"ignored": "nothing that matters here changed"}  # or our own PATCH
    elif action in OF_ANNOTATIONS:
        ids = ids_of(event.annotations or event.annotation)
    elif action in OF_TASKS:
        ids = ids_of(event.tasks)
    elif action in OF_LABEL_LINKS:
        return {"ignored": "links between labels do not concern training"}
    elif action != START_TRAINING:
        log.info("an action that is not known here was ignored: %s", action[:60])
        return {"ignored": f"{action[:60]} is not known here"}
    if action != START_TRAINING and work.ledger.events.are_enough(project.id):
        return {"ignored": "enough events of this project wait already"}
    return {"event": work.ledger.events.add(project.id, action, ids)}


def _check_secret(secret: str, project: Project | None, action: str) -> None:
    right = None if project is None else name_of(project.connection)
    if right is None or not hmac.compare_digest(right, secret):
        raise WebhookRefused(
            "The webhook's secret is another project's, or was replaced since: run "
            "`python -m backend connect --project ID`, which gives it a new one."
        )
    if action == START_TRAINING:
        # Label Studio sends it by the connection, with the password.
        raise WebhookRefused(f"{START_TRAINING} needs the user and password of HTTP Basic.")


def ids_of(rows: object) -> list[int]:
    """The first ``MOST_IDS`` ids of one object, or of a list of them; of what was deleted nothing
    else is sent."""
    if isinstance(rows, Mapping):
        rows = [rows]
    if not isinstance(rows, list):
        return []
    found = (row.get("id") for row in rows if isinstance(row, Mapping))
    return list(islice((each for each in found if isinstance(each, int)), MOST_IDS))
