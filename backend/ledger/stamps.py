"""The annotations of each task, as far as Label Studio has told them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Table, bindparam, delete, insert, select

from backend.ledger.engine import Database
from backend.ledger.entities import StampsListing, TaskStamps

StampRow = tuple[int, str, bool]
"""An annotation's id, its ``updated_at`` in Label Studio's words, and whether it is a skip."""

_TABLE = cast(Table, TaskStamps.__table__)


class StampsOfTasks:
    """Which annotations each task has; tasks without any have no row."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def listing(self, project_id: int) -> StampsListing | None:
        """Up to where the stamps are known; None before the first listing."""
        with self._db.read() as db:
            return db.get(StampsListing, project_id)

    def all(self, project_id: int) -> dict[int, list[StampRow]]:
        """Task id to its annotations' stamps, by rising task id."""
        with self._db.read() as db:
            found = db.execute(
                select(TaskStamps.task_id, TaskStamps.stamps)
                .where(TaskStamps.project_id == project_id)
                .order_by(TaskStamps.task_id)
            )
            return {each.task_id: each.stamps for each in found}

    def write(
        self,
        listing: StampsListing,
        changed: Mapping[int, Sequence[StampRow]],
        gone: Collection[int] = (),
    ) -> None:
        """Write what became known, and up to where all is known now, in one transaction.

        Args:
            listing: of the project.
            changed: the stamps of tasks whose stamps are new or others.
            gone: tasks without any annotation now.
        """
        project_id = listing.project_id
        rows: list[dict[str, Any]] = [
            {"project_id": project_id, "task_id": task_id, "stamps": list(stamps)}
            for task_id, stamps in changed.items()
        ]
        of_task = (_TABLE.c.project_id == project_id) & (_TABLE.c.task_id == bindparam("old"))
        old = [{"old": task_id} for task_id in {*changed, *gone}]
        with self._db.write() as db:
            if old:
                # One by one: a statement takes no more than 32,766 values.
                db.connection().execute(delete(_TABLE).where(of_task), old)
            if rows:
                db.connection().execute(insert(_TABLE), rows)
            db.merge(listing)
