"""Every check of the doctor, in the order in which they run, and every fix.

A check yields findings, ``ok`` where all is well, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from backend.insight.findings import connection, order, project_settings, storage
from backend.insight.findings.case import ProjectCase
from backend.insight.findings.connection import (
    check_connection,
    check_connection_state,
    check_first_backend,
    check_predictions_allowed,
    check_webhook,
    check_webhooks_allowed,
)
from backend.insight.findings.finding import Finding, Fix, Installation
from backend.insight.findings.hosts import check_hosts
from backend.insight.findings.labels import (
    check_configuration,
    check_images,
    check_unread,
)
from backend.insight.findings.order import (
    check_locks,
    check_order,
    check_overlap,
    check_predictions,
    check_version,
    check_view,
)
from backend.insight.findings.project_settings import check_settings
from backend.insight.findings.rounds import check_events, check_rounds
from backend.insight.findings.storage import check_disk, check_ledger, check_redis, check_registry
from backend.insight.findings.studio import check_label_studio
from backend.insight.findings.web import check_dashboard, check_web
from backend.insight.findings.workers import check_workers
from backend.workplace import Workplace

BASIC_CHECKS: tuple[Callable[[Workplace], Iterable[Finding]], ...] = (
    check_label_studio,
    check_ledger,
)
"""What the checks of projects rely on."""

PROJECT_CHECKS: tuple[Callable[[ProjectCase], Iterable[Finding]], ...] = (
    check_connection,
    check_first_backend,
    check_connection_state,
    check_predictions_allowed,
    check_webhooks_allowed,
    check_webhook,
    check_order,
    check_predictions,
    check_version,
    check_settings,
    check_view,
    check_overlap,
    check_configuration,
    check_images,
    check_unread,
    check_rounds,
    check_events,
    check_locks,
)

INSTALLATION_CHECKS: tuple[Callable[[Installation], Iterable[Finding]], ...] = (
    check_web,
    check_dashboard,
    check_redis,
    check_workers,
    check_hosts,
    check_registry,
    check_disk,
)

FIXES: Mapping[str, Fix] = {
    **storage.FIXES,
    **connection.FIXES,
    **order.FIXES,
    **project_settings.FIXES,
}
"""By the code of the finding that they fix."""
