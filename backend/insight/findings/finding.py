"""One finding of the doctor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from backend.insight.read_model import Json, to_json
from backend.workplace import Workplace

Severity = Literal["error", "warning", "ok"]

Fix = Callable[[Workplace, int], str]
"""Fixes what was found in a project (Label Studio's number); a sentence that says what was done."""


FIX_BY_DOCTOR = "Run `python -m backend doctor --fix`."


@dataclass(frozen=True)
class Finding:
    """What was found and what is to be done about it; never holds a secret.

    Attributes:
        code: what it is, for programs: words with hyphens between.
        severity: an error keeps the loop from working, a warning may.
        project: Label Studio's number; None where it concerns all of them.
        what: a sentence that says what is so.
        fix: a sentence that says what to do; empty where all is well.
        fixable: ``doctor --fix`` can do it.
    """

    code: str
    severity: Severity
    project: int | None
    what: str
    fix: str = ""
    fixable: bool = False

    def to_json(self) -> Json:
        found: Json = to_json(self)
        found["mend"] = found.pop("fix")  # the key that scripts read
        return found


@dataclass(frozen=True)
class Installation:
    """What the checks of an installation read.

    Attributes:
        ledger_sound: the ledger can be read.
        reached: Label Studio reports a connection as Connected, so that an address which only
            it can resolve (a compose network's) is no error.
    """

    work: Workplace
    ledger_sound: bool = True
    reached: bool = False


def error(code: str, what: str, fix: str, *, fixable: bool = False) -> Finding:
    """An error of the whole installation."""
    return Finding(code, "error", None, what, fix, fixable)


def warning(code: str, what: str, fix: str) -> Finding:
    return Finding(code, "warning", None, what, fix)


def ok(code: str, what: str) -> Finding:
    return Finding(code, "ok", None, what)
