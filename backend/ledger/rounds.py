"""The rounds of each project: at most one is under way."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from sqlalchemy import ColumnElement, delete, func, null, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.ledger.engine import Database
from backend.ledger.entities import Event, Part, Project, Publication, Round, Version
from backend.ledger.shapes import (
    ManifestEntry,
    NoPayload,
    Payload,
    RoundKind,
    RoundState,
    Stage,
)

START: RoundKind = "start"
"""The kind of the rounds before the first version: they rank without one."""

LONGEST_WAIT_S = 3600.0
"""The longest that a failing project's rounds wait for the next try."""

MOST_PROBLEMS = 200
"""Maximum number of problem messages kept per round: every part writes all of them anew."""

_AND_MORE = re.compile(r"And (\d+) more problems\.")


@dataclass(frozen=True)
class RoundSummary:
    """A round without its manifest and configuration: columns of ``Round``."""

    id: int
    project_id: int
    kind: RoundKind
    reason: str
    stage: Stage
    state: RoundState
    version: int | None
    error: str | None
    problems: list[str]
    timings: dict[str, float]
    started_at: float
    stage_started_at: float
    ended_at: float | None


class Rounds:
    """How rounds begin and end; what happens between is the parts'."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def start(
        self,
        project_id: int,
        kind: RoundKind,
        reason: str,
        stage: Stage,
        payload: Payload | None = None,
    ) -> Round | None:
        """Open a round with the one part of its first stage; None if one is under way."""
        now = time.time()
        opened = Round(
            project_id=project_id,
            kind=kind,
            reason=reason,
            stage=stage,
            started_at=now,
            stage_started_at=now,
        )
        try:
            with self._db.write() as db:
                if kind == "train":
                    opened.version = _next_version(db, project_id)
                db.add(opened)
                db.flush()
                add_parts(db, opened.id, stage, [payload or NoPayload()])
        except IntegrityError:
            return None
        return opened

    def adopt(self, project_id: int, reason: str) -> Round:
        """The row of a version that was made elsewhere, with the number that it gets here."""
        now = time.time()
        adopted = Round(
            project_id=project_id,
            kind="adopt",
            reason=reason,
            stage="publish",
            state="succeeded",
            started_at=now,
            stage_started_at=now,
            ended_at=now,
        )
        with self._db.write() as db:
            adopted.version = _next_version(db, project_id)
            db.add(adopted)
        return adopted

    def get(self, round_id: int) -> Round:
        with self._db.read() as db:
            return db.get_one(Round, round_id)

    def active(self, project_id: int) -> Round | None:
        """The round under way."""
        with self._db.read() as db:
            return db.scalars(
                select(Round).where(Round.project_id == project_id, Round.state == "active")
            ).first()

    def last(
        self, project_id: int, *, kind: RoundKind | None = None, state: RoundState | None = None
    ) -> Round | None:
        query = select(Round).where(Round.project_id == project_id).order_by(Round.id.desc())
        if kind is not None:
            query = query.where(Round.kind == kind)
        if state is not None:
            query = query.where(Round.state == state)
        with self._db.read() as db:
            return db.scalars(query.limit(1)).first()

    def recent(
        self,
        project_id: int,
        limit: int,
        *,
        kind: RoundKind | None = None,
        state: RoundState | None = None,
    ) -> list[RoundSummary]:
        """The newest rounds, newest first, without what is large."""
        query = (
            select(*(getattr(Round, each.name) for each in fields(RoundSummary)))
            .where(Round.project_id == project_id)
            .order_by(Round.id.desc())
            .limit(limit)
        )
        if kind is not None:
            query = query.where(Round.kind == kind)
        if state is not None:
            query = query.where(Round.state == state)
        with self._db.read() as db:
            return [RoundSummary(*row) for row in db.execute(query)]

    def last_manifest(self, project_id: int) -> list[ManifestEntry]:
        """What the last attempted training round used; empty before the first."""
        return next(iter(self.newest_manifests(project_id, 1)), [])

    def newest_manifests(self, project_id: int, count: int) -> list[list[ManifestEntry]]:
        """The newest ``count`` manifests, newest first."""
        with self._db.read() as db:
            found = db.scalars(
                select(Round.manifest)
                .where(_with_manifest(project_id))
                .order_by(Round.id.desc())
                .limit(count)
            )
            return [manifest or [] for manifest in found]

    def forget_details(
        self, project_id: int, keep: int, keep_manifests: int, versions_kept: Collection[int]
    ) -> None:
        """Forget the parts, problems and manifests of older rounds, and the quantiles of their
        publications. Their rows stay, with how they began and ended.

        Args:
            keep: newest rounds that keep their parts and problems; the one that made the serving
                publication does as well, and an active one keeps all.
            keep_manifests: newest manifests that stay.
            versions_kept: versions whose rounds keep their manifest: what they were trained on.
        """
        of_project, ended = Round.project_id == project_id, Round.state != "active"
        newest = select(Round.id).where(of_project).order_by(Round.id.desc()).limit(keep)
        newest_manifests = (
            select(Round.id)
            .where(_with_manifest(project_id))
            .order_by(Round.id.desc())
            .limit(keep_manifests)
        )
        serving = select(Publication.round_id).where(
            Publication.project_id == project_id, Publication.state == "serving"
        )
        made_kept = select(Version.round_id).where(
            Version.project_id == project_id, Version.number.in_(versions_kept)
        )
        has_parts = Round.id.in_(select(Part.round_id))  # else it was forgotten before
        with self._db.write() as db:
            old = db.scalars(
                select(Round.id).where(
                    of_project, ended, has_parts, Round.id.not_in(newest), Round.id.not_in(serving)
                )
            ).all()
            db.execute(delete(Part).where(Part.round_id.in_(old)))
            db.execute(update(Round).where(Round.id.in_(old)).values(problems=[]))
            db.execute(
                update(Publication)
                .where(Publication.round_id.in_(old))
                .values(quantiles=[], arm_quantiles=null())
            )
            db.execute(
                update(Round)
                .where(
                    _with_manifest(project_id),
                    ended,
                    Round.id.not_in(newest_manifests),
                    Round.id.not_in(made_kept),
                )
                .values(manifest=null())
            )

    def fail(self, round_id: int, error: str) -> None:
        """End a round with its reason; the publication that serves stays.

        The project's next rounds wait, unless this was a start round: training does not depend on
        it.
        """
        now = time.time()
        with self._db.write() as db:
            failed = db.get(Round, round_id)
            if failed is None or failed.state != "active":  # None: purged with its project
                return
            failed.state, failed.error, failed.ended_at = "failed", error, now
            _drop_parts(db, round_id)
            project = db.get_one(Project, failed.project_id)
            project.last_error = error
            if failed.kind != START:
                # Doubles from one minute to one hour; a person's request does not wait for it.
                wait_s = min(LONGEST_WAIT_S, 60.0 * 2.0 ** min(project.failures, 10))
                project.failures, project.not_before = project.failures + 1, now + wait_s
            db.add(round_ended(project.id, now))

    def cancel(self, round_id: int, reason: str) -> bool:
        """End a round for a better one; False if it has ended already, or is gone."""
        with self._db.write() as db:
            cancelled = db.get(Round, round_id)
            if cancelled is None or cancelled.state != "active":
                return False
            cancelled.state, cancelled.error, cancelled.ended_at = "cancelled", reason, time.time()
            _drop_parts(db, round_id)
            return True


def _next_version(db: Session, project_id: int) -> int:
    highest = select(func.max(Round.version)).where(Round.project_id == project_id)
    return (db.scalar(highest) or 0) + 1


def _with_manifest(project_id: int) -> ColumnElement[bool]:
    return (Round.project_id == project_id) & Round.manifest.is_not(None)


def add_parts(db: Session, round_id: int, stage: Stage, payloads: Sequence[Payload]) -> None:
    """Open a stage.

    Raises:
        ValueError: no payloads: a stage without a part would never end.
    """
    if not payloads:
        raise ValueError(f"stage {stage} of round {round_id} needs at least one part")
    db.add_all(
        Part(round_id=round_id, stage=stage, number=number, payload=payload)
        for number, payload in enumerate(payloads)
    )


def _drop_parts(db: Session, round_id: int) -> None:
    db.execute(
        update(Part)
        .where(Part.round_id == round_id, Part.state != "done")
        .values(state="dropped", token=None, lease_until=None)
    )


def succeed(db: Session, ended: Round, now: float) -> None:
    """End a round well: its project need not wait any more, and has no error."""
    ended.state, ended.ended_at = "succeeded", now
    project = db.get_one(Project, ended.project_id)
    if ended.kind != START or project.failures == 0:  # else training still fails
        project.last_error, project.failures, project.not_before = None, 0, 0.0
    db.add(round_ended(project.id, now))


def round_ended(project_id: int, now: float) -> Event:
    """The event that has a check count what came during the round."""
    return Event(project_id=project_id, action="ROUND_ENDED", ids=[], received_at=now)


def bounded(problems: Sequence[str]) -> list[str]:
    """At most ``MOST_PROBLEMS`` messages, and one that counts the rest."""
    more = 0
    for problem in problems[MOST_PROBLEMS:]:
        counted = _AND_MORE.fullmatch(problem)
        more += 1 if counted is None else int(counted[1])
    kept = list(problems[:MOST_PROBLEMS])
    return kept if more == 0 else [*kept, f"And {more} more problems."]
