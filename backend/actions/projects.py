"""The connected project that an action is asked for.

Apart from ``connect``, so that actions which do not speak to Label Studio load no SDK.
"""

from __future__ import annotations

from backend.errors import BadRequest
from backend.ledger import Project
from backend.workplace import Workplace


def connected_project(work: Workplace, studio_id: int) -> Project:
    """The project of that Label Studio number, which must be connected now.

    Raises:
        UnknownProject: it was never connected.
        BadRequest: it is disconnected.
    """
    row = work.ledger.projects.of_studio(work.server, studio_id)
    if not row.connected:
        raise BadRequest(
            f"Project {studio_id} is not connected: "
            f"run `python -m backend connect --project {studio_id}` first."
        )
    return row
