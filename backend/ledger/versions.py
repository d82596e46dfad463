"""The versions that rounds have made, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import select, update

from backend.ledger.engine import Database
from backend.ledger.entities import Round, Version
from backend.ledger.shapes import AuditEstimate, Metrics, VersionState


@dataclass(frozen=True)
class VersionSummary:
    """A version without the scores of each image: columns and metrics of ``Version``, and its
    round's configuration (JSON text) and seconds by stage, and number."""

    number: int
    state: VersionState
    reason: str
    members: int
    classes: list[str]
    created_at: float
    foreground_dice: float | None
    ece: float | None
    examples: int | None
    out_of_fold: bool | None
    dice: dict[str, float | None] | None
    iou: dict[str, float | None] | None
    audit: AuditEstimate | None
    config: str | None
    timings: dict[str, float]
    round_id: int


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

    def summaries(self, project_id: int, limit: int | None = None) -> list[VersionSummary]:
        """The newest versions, newest first, without the scores of each image, with the times and
        the configuration of their rounds."""

        query = (
            select(
                *(Version.number, Version.state, Version.reason, Version.members),
                *(Version.classes, Version.created_at),
                Version.metrics["foreground_dice"].as_float(),
                Version.metrics["ece"].as_float(),
                Version.metrics["examples"].as_integer(),
                *(Version.metrics["out_of_fold"].as_boolean(), Version.metrics["dice"]),
                *(Version.metrics["iou"], Version.metrics["audit"], Round.config, Round.timings),
                Version.round_id,
            )
            .join(Round, Round.id == Version.round_id)
            .where(Version.project_id == project_id)
            .order_by(Version.number.desc())
            .limit(limit)
        )
        with self._db.read() as db:
            return [VersionSummary(*row) for row in db.execute(query)]

    def get(self, project_id: int, number: int) -> Version | None:
        with self._db.read() as db:
            return db.scalars(
                select(Version).where(Version.project_id == project_id, Version.number == number)
            ).first()

    def numbers(self, project_id: int) -> list[int]:
        """Of all versions, oldest first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Version.number)
                    .where(Version.project_id == project_id)
                    .order_by(Version.number)
                )
            )

    def some(self, project_id: int, numbers: Collection[int]) -> list[Version]:
        """Those of these numbers that there are, oldest first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Version)
                    .where(Version.project_id == project_id, Version.number.in_(numbers))
                    .order_by(Version.number)
                )
            )

    def set_state(self, project_id: int, number: int, state: VersionState, reason: str) -> None:
        with self._db.write() as db:
            db.execute(
                update(Version)
                .where(Version.project_id == project_id, Version.number == number)
                .values(state=state, reason=reason)
            )

    def promoted_numbers(self, project_id: int) -> list[int]:
        """Of the promoted versions, newest first: the first one ranks now."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Version.number)
                    .where(Version.project_id == project_id, Version.state == "promoted")
                    .order_by(Version.number.desc())
                )
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
