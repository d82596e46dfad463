"""What annotators' corrections said of the measures."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session

from backend.ledger.engine import Database
from backend.ledger.entities import Evidence


class EvidenceOfTasks:
    """Evidence by task; the part that judges writes it with its result."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def all(self, project_id: int) -> list[Evidence]:
        """All of a project's, in the order of the rounds that judged it first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Evidence)
                    .where(Evidence.project_id == project_id)
                    .order_by(Evidence.round_id, Evidence.task_id)
                )
            )

    def task_ids(self, project_id: int) -> set[int]:
        """The tasks that were judged."""
        with self._db.read() as db:
            return set(
                db.scalars(select(Evidence.task_id).where(Evidence.project_id == project_id))
            )

    def errors(self, project_id: int) -> list[tuple[int, float]]:
        """Round and share of corrected pixels of each judged task that is no audit."""
        with self._db.read() as db:
            found = db.execute(
                select(Evidence.round_id, Evidence.error).where(
                    Evidence.project_id == project_id, ~Evidence.audit
                )
            )
            return [(round_id, error) for round_id, error in found]

    def withdraw(self, project_id: int, task_ids: Collection[int]) -> None:
        """Delete what was judged of these tasks."""
        with self._db.write() as db:
            replace_evidence(db, project_id, (), task_ids)


def replace_evidence(
    db: Session, project_id: int, judged: Sequence[Evidence], withdrawn: Collection[int]
) -> None:
    """Write evidence in place of what there is of its tasks, and delete that of ``withdrawn``."""
    old = {*withdrawn, *(each.task_id for each in judged)}
    if old:
        # One by one: a statement takes no more than 32,766 values.
        db.connection().execute(
            delete(Evidence).where(
                Evidence.project_id == project_id, Evidence.task_id == bindparam("gone")
            ),
            [{"gone": task_id} for task_id in old],
        )
    for each in judged:
        each.project_id, each.judged_at = project_id, time.time()
    db.add_all(judged)
