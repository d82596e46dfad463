"""The record of what people did on the dashboard; nothing but a project's purge removes from it."""

from __future__ import annotations

import time

from sqlalchemy import select, update

from backend.ledger.engine import Database
from backend.ledger.entities import Action


class Actions:
    """What people asked for, in the order of it."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def begin(
        self, project_id: int, what: str, *, who: str, login: str, version: int | None = None
    ) -> int:
        """Write down what is about to be done, before it is: a crash in between leaves no gap.

        Returns:
            The row's number, for ``end``.
        """
        asked = Action(
            project_id=project_id, what=what, version=version, who=who, login=login, at=time.time()
        )
        with self._db.write() as db:
            db.add(asked)
        return asked.id

    def end(self, action_id: int, outcome: str) -> None:
        """Write down what came of it, or why it was refused."""
        with self._db.write() as db:
            db.execute(update(Action).where(Action.id == action_id).values(outcome=outcome))

    def newest(self, project_id: int, limit: int) -> list[Action]:
        """Newest first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Action)
                    .where(Action.project_id == project_id)
                    .order_by(Action.id.desc())
                    .limit(limit)
                )
            )
