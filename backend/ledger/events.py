"""What happened to the projects: webhooks, requests of a person, ends of rounds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from sqlalchemy import (
    Table,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    union,
    update,
)

from backend.ledger.engine import Database
from backend.ledger.entities import Event

# Into the table, and made once: each webhook comes here, and an object of the session or a
# statement of its own takes as long as all the rest.
_ADD = insert(cast(Table, Event.__table__))
_WAITING = (Event.project_id == bindparam("project")) & ~Event.handled
_ENDS = select(
    select(func.min(Event.id)).where(_WAITING).scalar_subquery(),
    select(func.max(Event.id)).scalar_subquery(),
)
_COUNT = select(func.count()).where(_WAITING)

PREDICT_REST = "PREDICT_REST"
"""Our own event: tasks that a /predict had no time for. The clock hands it on to a job, and no
check handles it."""


MOST_WAITING = 20_000
"""Events that wait for one check, as while a round runs; what more of them would say, it sees."""

MOST_KEPT = 100_000
"""Handled events of all projects, however young."""


class Events:
    """Events trigger checks; a check that looked at Label Studio marks them as handled."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, project_id: int, action: str, ids: Sequence[int] = ()) -> int:
        """Write what happened, before anybody is told that it was received; the event's id."""
        happened = {
            "project_id": project_id,
            "action": action,
            "ids": list(ids),
            "received_at": time.time(),
            "handled": False,
        }
        key = self._db.write_alone(_ADD, happened).inserted_primary_key
        assert key is not None  # of a single row there is one
        return int(key[0])

    def are_enough(self, project_id: int) -> bool:
        """Whether ``MOST_WAITING`` of a project wait: whoever has a webhook's secret sends many."""
        project = {"project": project_id}
        with self._db.read() as db:
            connection = db.connection()
            first, last = connection.execute(_ENDS, project).one()
            if first is None or last - first < MOST_WAITING - 1:
                return False  # as nearly always, by two looks into an index
            return bool(connection.execute(_COUNT, project).scalar_one() >= MOST_WAITING)

    def pending(self, project_id: int) -> list[Event]:
        """The unhandled events, oldest first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Event)
                    .where(Event.project_id == project_id, ~Event.handled)
                    .order_by(Event.id)
                )
            )

    def pending_ends(self, project_id: int, *, all_of: str) -> list[Event]:
        """The first and the last unhandled event of each action, oldest first.

        Many thousands can wait for a round to end, and the clock asks every second.

        Args:
            all_of: the action of which every event is wanted.
        """
        pending = (Event.project_id == project_id) & ~Event.handled
        ends = [
            select(end(Event.id)).where(pending).group_by(Event.action)
            for end in (func.min, func.max)
        ]
        wanted = or_(Event.id.in_(union(*ends)), Event.action == all_of)
        with self._db.read() as db:
            return list(db.scalars(select(Event).where(pending, wanted).order_by(Event.id)))

    def handle(self, event_ids: Sequence[int]) -> None:
        """Mark events as handled."""
        if not event_ids:
            return
        with self._db.write() as db:
            # One by one: a statement takes no more than 32,766 values.
            db.connection().execute(
                update(Event).where(Event.id == bindparam("done")).values(handled=True),
                [{"done": event_id} for event_id in event_ids],
            )

    def drop_old(self, older_than_s: float) -> None:
        """Forget old events: all that are handled, and of the others all but the last of each
        action, which still says that there is something to look at. Of those that are not old,
        what is handled and has ``MOST_KEPT`` after it."""
        old = Event.received_at < time.time() - older_than_s
        last = select(func.max(Event.id)).group_by(Event.project_id, Event.action)
        with self._db.write() as db:
            db.execute(delete(Event).where(old, or_(Event.handled, Event.id.not_in(last))))
            newest = db.scalar(select(func.max(Event.id))) or 0
            db.execute(delete(Event).where(Event.handled, Event.id <= newest - MOST_KEPT))

    def last_at(self, project_id: int) -> float | None:
        """When the last event came; None before the first."""
        with self._db.read() as db:
            return db.scalar(
                select(func.max(Event.received_at)).where(Event.project_id == project_id)
            )
