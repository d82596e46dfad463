"""Findings for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from backend.insight.findings.finding import Finding, Severity

_SHOWN: dict[Severity, str] = {"error": "ERROR", "warning": "warning", "ok": "ok"}
"""The worst first."""


def describe_findings(findings: Sequence[Finding]) -> str:
    """The worst first, project by project, and a line that counts them."""
    order = list(_SHOWN)
    lines: list[str] = []
    for project in sorted({f.project for f in findings}, key=lambda p: (p is not None, p or 0)):
        lines.append("This installation" if project is None else f"Project {project}")
        own = [f for f in findings if f.project == project]
        for finding in sorted(own, key=lambda f: order.index(f.severity)):
            lines.append(f"  {_SHOWN[finding.severity]:8}{finding.what}")
            if finding.fix:
                lines.append(f"          -> {finding.fix} [{finding.code}]")
    return "\n".join([*lines, _summary(findings)])


def _summary(findings: Sequence[Finding]) -> str:
    errors = sum(f.severity == "error" for f in findings)
    warnings = sum(f.severity == "warning" for f in findings)
    if not errors and not warnings:
        return "All is well."
    fixable = sum(f.fixable for f in findings)
    counts = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    return f"{counts}; `doctor --fix` fixes {fixable} of them." if fixable else f"{counts}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
