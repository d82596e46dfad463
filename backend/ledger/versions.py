"""The versions that rounds have made, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import select, update

from backend.ledger.engine import Database
from backend.ledger.entities import Version
from backend.ledger.shapes import Metrics, VersionState


class Versions:
    """The versions of each project, by their number."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def record(
        self,
        project_id: int,
        number: int,
        round_id: int,
        *,
        state: VersionState,
        reason: str,
        members: int,
        classes: Sequence[str],
        metrics: Metrics,
    ) -> None:
        """Write a version's fate; the same round may write it again after a crash."""
        written = Version(
            project_id=project_id,
            number=number,
            round_id=round_id,
            state=state,
            reason=reason,
            members=members,
            classes=list(classes),
            metrics=metrics,
            created_at=time.time(),
        )
        with self._db.write() as db:
            before = db.scalars(
                select(Version).where(Version.project_id == project_id, Version.number == number)
            ).first()
            if before is not None:
                written.id, written.created_at = before.id, before.created_at
            db.merge(written)

    def all(self, project_id: int) -> list[Version]:
        """Newest first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Version)
                    .where(Version.project_id == project_id)
                    .order_by(Version.number.desc())
                )
            )

    def set_state(self, project_id: int, number: int, state: VersionState, reason: str) -> None:
        with self._db.write() as db:
            db.execute(
                update(Version)
                .where(Version.project_id == project_id, Version.number == number)
                .values(state=state, reason=reason)
            )

    def promoted(self, project_id: int) -> Version | None:
        """The version that ranks now: the newest promoted one."""
        with self._db.read() as db:
            return db.scalars(
                select(Version)
                .where(Version.project_id == project_id, Version.state == "promoted")
                .order_by(Version.number.desc())
                .limit(1)
            ).first()
