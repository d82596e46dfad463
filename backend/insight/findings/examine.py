"""Runs the doctor's checks, and applies its fixes.

``examine`` changes nothing: where Label Studio must be asked whether it would allow something,
the request holds a mistake on purpose, so that nothing is made.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import (
    BackendError,
    LedgerUnavailable,
    StudioRefused,
    StudioUnreachable,
)
from backend.insight.findings.case import ProjectCase
from backend.insight.findings.checks import (
    BASIC_CHECKS,
    FIXES,
    INSTALLATION_CHECKS,
    PROJECT_CHECKS,
)
from backend.insight.findings.finding import Finding, Installation, warning
from backend.workplace import Workplace
from training.committee.store.store import StoreUnavailable


def examine(work: Workplace, project_ids: Sequence[int] | None = None) -> list[Finding]:
    """Run every check.

    Args:
        project_ids: Label Studio's numbers; None: every project that the ledger has connected.
    """
    found = [finding for check in BASIC_CHECKS for finding in check(work)]
    broken = {finding.code for finding in found if finding.severity == "error"}
    ledger_sound = not broken & {"ledger", "ledger-schema"}
    studio_sound = not any(code.startswith(("studio", "token")) for code in broken)
    projects = _examine_projects(work, project_ids, ledger_sound) if studio_sound else []
    reached = any(finding.code == "connection" for finding in projects)
    installation = Installation(work, ledger_sound, reached)
    for check in INSTALLATION_CHECKS:
        found += check(installation)
    return found + projects


def apply_fix(work: Workplace, finding: Finding) -> str:
    """Fix what was found; a sentence on what was done, or why it could not be."""
    fix = FIXES.get(finding.code) if finding.fixable else None
    if fix is None:
        return f"{finding.code} cannot be fixed from here. {finding.fix}"
    try:
        return fix(work, finding.project or 0)
    except BackendError as error:
        return f"{finding.code} could not be fixed: {error}"


def _examine_projects(
    work: Workplace, project_ids: Sequence[int] | None, ledger_sound: bool
) -> list[Finding]:
    chosen = _connected_projects(work, ledger_sound) if project_ids is None else project_ids
    if not chosen:
        fix = "Run `python -m backend connect --project ID`."
        return [warning("no-project", "No project is connected.", fix)]
    return [
        finding
        for studio_id in chosen
        for finding in _examine_project(work, studio_id, ledger_sound)
    ]


def _connected_projects(work: Workplace, ledger_sound: bool) -> list[int]:
    if not ledger_sound:
        return []
    connected = work.ledger.projects.all(connected_only=True, server=work.server)
    return sorted({project.studio_id for project in connected})


def _examine_project(work: Workplace, studio_id: int, ledger_sound: bool) -> list[Finding]:
    findings: list[Finding] = []
    try:
        project = work.studio.project(studio_id)
        # This very project, not an older one that had its number.
        find = work.ledger.projects.find
        known = find(work.server, studio_id, project.created) if ledger_sound else None
        case = ProjectCase(work, project, known)
        for check in PROJECT_CHECKS:
            findings += check(case)
    except StudioRefused as error:
        findings.append(_refused(studio_id, error))
    except (StudioUnreachable, LedgerUnavailable, StoreUnavailable) as error:
        fix = "Run doctor again when it answers."
        findings.append(Finding("project-unread", "error", studio_id, str(error), fix))
    return findings


def _refused(studio_id: int, error: StudioRefused) -> Finding:
    if error.studio_status == 404:
        what = f"Label Studio has no project {studio_id} that our user may see."
        fix = f"If it was deleted: `python -m backend disconnect --project {studio_id}`."
        return Finding("project-gone", "error", studio_id, what, fix)
    fix = "Give our user the rights to change this project in Label Studio."
    return Finding("project-refused", "error", studio_id, str(error), fix)
