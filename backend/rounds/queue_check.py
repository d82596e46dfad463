"""Whether Label Studio still serves the queue that the ledger says it serves.

It may not: its database was restored from a backup that is older than the publication, somebody
deleted predictions there, or connected a backend by hand, which names that as the model version.
"""

from __future__ import annotations

import logging

from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.queue_order import TITLE, VERSION_PREFIX, set_order
from backend.ledger import Project
from backend.workplace import Workplace

log = logging.getLogger(__name__)


def keep_queue(work: Workplace, row: Project, project: StudioProject) -> int:
    """Have Label Studio serve our publication again, or give that up where its predictions are
    gone, so that the next round makes another.

    Args:
        row: the ledger's project; no round of it may be publishing.
        project: Label Studio's, read just now.

    Returns:
        How many of the publication's predictions are gone: each went with its task.
    """
    serving = work.ledger.publications.serving(row.id)
    if serving is None:
        return 0
    name, stored = str(serving.name), serving.stored or 0
    held = work.studio.model_versions(project.id).get(name, 0)
    if held == 0:
        log.warning("Label Studio holds no prediction of %s any more", name)
        # What it serves meanwhile, an older publication perhaps, is better than nothing.
        work.ledger.publications.set_state(serving.id, "failed")
        return 0
    if project.model_version != name and _is_ours(project.model_version):
        log.warning("Label Studio served %r instead of %s", project.model_version, name)
        set_order(work.studio, project.id, name)
    return max(0, stored - held)


def _is_ours(model_version: str) -> bool:
    """Whether nobody chose it: none, our connection's title, or a publication of ours."""
    return model_version in ("", TITLE) or model_version.startswith(VERSION_PREFIX)
