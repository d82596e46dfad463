"""What each stage of a round does, a module for each; rounds and jobs may import it.

A stage takes its round and one part's payload and returns an ``Outcome``: the part's result and
what comes next. Nothing here writes a round's rows: ``backend.jobs`` does, with the lease. Every
stage can be repeated, because a worker may die at any line of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backend.ledger import Outcome, Round
from backend.rounds.stages import assemble, choose, collect, fit, judge, publish, score
from backend.rounds.stages.leftovers import clear_up
from backend.workplace import Workplace

__all__ = ["RUN", "clear_up"]

RUN: Mapping[str, Callable[[Workplace, Round, Any, Callable[[float], None]], Outcome]] = {
    "collect": collect.collect,
    "judge": judge.judge,
    "fit": fit.fit,
    "assemble": assemble.assemble,
    "choose": choose.choose,
    "score": score.score,
    "publish": publish.publish,
}
