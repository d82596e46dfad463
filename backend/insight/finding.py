"""One thing that the doctor has seen, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "ok"]


@dataclass(frozen=True)
class Finding:
    """What was looked at and what is to be done about it; never holds a secret.

    Attributes:
        code: what it is, for programs: words with hyphens between.
        severity: an error keeps the loop from working, a warning may.
        project: Label Studio's number; None where it concerns all of them.
        what: a sentence that says what is so.
        mend: a sentence that says what to do; empty where all is well.
        fixable: ``doctor --fix`` can do it.
    """

    code: str
    severity: Severity
    project: int | None
    what: str
    mend: str = ""
    fixable: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_ORDER: tuple[Severity, ...] = ("error", "warning", "ok")
_SHOWN = {"error": "ERROR", "warning": "warning", "ok": "ok"}


def report(findings: list[Finding]) -> str:
    """Findings for a person at a terminal: the worst first, project by project."""
    lines: list[str] = []
    for project in sorted({f.project for f in findings}, key=lambda p: (p is not None, p or 0)):
        lines.append("This installation" if project is None else f"Project {project}")
        own = [f for f in findings if f.project == project]
        for finding in sorted(own, key=lambda f: _ORDER.index(f.severity)):
            lines.append(f"  {_SHOWN[finding.severity]:8}{finding.what}")
            if finding.mend:
                lines.append(f"          -> {finding.mend} [{finding.code}]")
    return "\n".join([*lines, _sum_up(findings)])


def _sum_up(findings: list[Finding]) -> str:
    errors = sum(f.severity == "error" for f in findings)
    warnings = sum(f.severity == "warning" for f in findings)
    if not errors and not warnings:
        return "All is well."
    fixable = sum(f.fixable for f in findings)
    counts = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    return f"{counts}; `doctor --fix` mends {fixable} of them." if fixable else f"{counts}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
