"""What a round leaves behind."""

from __future__ import annotations

from backend.ledger import Round
from backend.rounds.retention import prune
from backend.workplace import Workplace


def clear_up(work: Workplace, round_: Round) -> None:
    """After a round has ended: its scratch goes, and what only older rounds needed."""
    row = work.ledger.projects.get(round_.project_id)
    work.registry.drop_round(row.slug, round_.id)
    prune(work, row)
