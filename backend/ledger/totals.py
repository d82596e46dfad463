"""Sums over the ledger for /metrics, in one read.

A scrape must be cheap with hundreds of rounds and versions. SQLite reads a row up to the column
that is asked for, so no column that stands behind a manifest or the scores of all images is asked
of more than one row of a project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, tuple_

from backend.ledger.engine import Database
from backend.ledger.entities import (
    Event,
    Part,
    ProcessRecord,
    Project,
    Publication,
    Round,
    Version,
)


@dataclass(frozen=True)
class PromotedVersion:
    """The version that ranks, and what was measured of it; None where nothing could be.

    Attributes:
        foreground_dice, ece: out of fold.
        audit_dice: foreground Dice of the audit images, and both ends of its interval.
    """

    number: int
    created_at: float
    examples: int | None
    foreground_dice: float | None
    ece: float | None
    audit_images: int | None
    audit_dice: tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class ActiveRound:
    """A round under way."""

    kind: str
    stage: str
    started_at: float
    stage_started_at: float


@dataclass(frozen=True)
class ServingQueue:
    """A publication that serves: a ranking by a version, or by chance (``mode``)."""

    version: int
    length: int
    mode: str | None
    served_at: float | None


@dataclass(frozen=True)
class Totals:
    """What the ledger holds. Mappings are keyed by the project's ledger id.

    Attributes:
        rounds: project, kind, stage that they ended in or are at, state, how many.
        parts: project, stage, state (waiting or leased), how many, in active rounds.
        events: project, how many are not handled, when the oldest came.
        versions: project, state, how many.
        timings: seconds of each stage of the last training round that succeeded.
        processes: role, and when they were last heard of.
    """

    projects: Sequence[Project]
    rounds: Sequence[tuple[int, str, str, str, int]]
    active: Mapping[int, ActiveRound]
    timings: Mapping[int, Mapping[str, float]]
    parts: Sequence[tuple[int, str, str, int]]
    events: Sequence[tuple[int, int, float]]
    versions: Sequence[tuple[int, str, int]]
    promoted: Mapping[int, PromotedVersion]
    serving: Mapping[int, ServingQueue]
    processes: Sequence[tuple[str, float]]


def read_totals(database: Database) -> Totals:
    """Sums over the whole ledger.

    Raises:
        LedgerUnavailable: it cannot be read now.
    """
    count = func.count()
    with database.read() as db:
        last_trained = (
            select(func.max(Round.id))
            .where(Round.kind == "train", Round.state == "succeeded")
            .group_by(Round.project_id)
        )
        newest_promoted = (
            select(Version.project_id, func.max(Version.number))
            .where(Version.state == "promoted")
            .group_by(Version.project_id)
        )
        of_rounds = (Round.project_id, Round.kind, Round.stage, Round.state)
        of_parts = (Round.project_id, Part.stage, Part.state)
        of_versions = (Version.project_id, Version.state)
        return Totals(
            projects=db.scalars(select(Project).order_by(Project.id)).all(),
            rounds=[
                (project, kind, stage, state, number)
                for project, kind, stage, state, number in db.execute(
                    select(*of_rounds, count).group_by(*of_rounds)
                )
            ],
            active={
                project: ActiveRound(kind, stage, started_at, stage_started_at)
                for project, kind, stage, started_at, stage_started_at in db.execute(
                    select(
                        *(Round.project_id, Round.kind, Round.stage),
                        *(Round.started_at, Round.stage_started_at),
                    ).where(Round.state == "active")
                )
            },
            timings={
                row.project_id: row.timings
                for row in db.execute(
                    select(Round.project_id, Round.timings).where(Round.id.in_(last_trained))
                )
            },
            parts=[
                (project, stage, state, number)
                for project, stage, state, number in db.execute(
                    select(*of_parts, count)
                    .join(Round, Round.id == Part.round_id)
                    .where(Part.state.in_(("waiting", "leased")), Round.state == "active")
                    .group_by(*of_parts)
                )
            ],
            events=[
                (project, number, oldest)
                for project, number, oldest in db.execute(
                    select(Event.project_id, count, func.min(Event.received_at))
                    .where(Event.handled.is_(False))
                    .group_by(Event.project_id)
                )
            ],
            versions=[
                (project, state, number)
                for project, state, number in db.execute(
                    select(*of_versions, count).group_by(*of_versions)
                )
            ],
            promoted={
                project: PromotedVersion(
                    number, created_at, examples, dice, ece, images, (value, low, high)
                )
                for (
                    project,
                    number,
                    created_at,
                    examples,
                    dice,
                    ece,
                    images,
                    value,
                    low,
                    high,
                ) in db.execute(
                    select(
                        *(Version.project_id, Version.number, Version.created_at),
                        Version.metrics["examples"].as_integer(),
                        Version.metrics["foreground_dice"].as_float(),
                        Version.metrics["ece"].as_float(),
                        Version.metrics["audit", "images"].as_integer(),
                        *(
                            Version.metrics["audit", "foreground_dice", end].as_float()
                            for end in ("value", "low", "high")
                        ),
                    ).where(tuple_(Version.project_id, Version.number).in_(newest_promoted))
                )
            },
            serving={
                project: ServingQueue(version, length, mode, served_at)
                for project, version, length, mode, served_at in db.execute(
                    select(
                        *(Publication.project_id, Publication.version, Publication.length),
                        *(Publication.mode, Publication.served_at),
                    ).where(Publication.state == "serving")
                )
            },
            processes=[
                (role, seen_at)
                for role, seen_at in db.execute(select(ProcessRecord.role, ProcessRecord.seen_at))
            ],
        )
