"""Which web and worker processes have said that they are alive."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy import delete, select

from backend.ledger.engine import Database, clock_ahead_s
from backend.ledger.entities import ProcessRecord


class Processes:
    """The processes that run, and those that stopped without a word until they are dropped."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def beat(
        self,
        process_id: str,
        role: str,
        address: str,
        host: str,
        pid: int,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Note that a process is alive, what it works with, and how its clock goes."""
        with self._db.write() as db:
            now, ahead_s = time.time(), clock_ahead_s(db.connection())
            told = None if facts is None else dict(facts)
            known = db.get(ProcessRecord, process_id)
            if known is not None:
                known.seen_at, known.facts, known.ahead_s = now, told, ahead_s
                return
            db.add(
                ProcessRecord(
                    id=process_id,
                    role=role,
                    address=address,
                    host=host,
                    pid=pid,
                    started_at=now,
                    seen_at=now,
                    facts=told,
                    ahead_s=ahead_s,
                )
            )

    def remove(self, process_id: str) -> None:
        with self._db.write() as db:
            db.execute(delete(ProcessRecord).where(ProcessRecord.id == process_id))

    def all(self) -> list[ProcessRecord]:
        with self._db.read() as db:
            return list(db.scalars(select(ProcessRecord).order_by(ProcessRecord.role)))

    def drop_silent(self, silent_s: float) -> None:
        """Forget the processes that have not been heard of for so many seconds."""
        with self._db.write() as db:
            db.execute(delete(ProcessRecord).where(ProcessRecord.seen_at < time.time() - silent_s))
