"""The parts of rounds, each one job: leased to a worker, and finished by it alone.

A worker takes a part by a lease and must renew that; whoever holds no lease writes nothing. The
part that ends a stage opens the next one in the same transaction, so after any crash a round stands
exactly where its rows say.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import cast

from sqlalchemy import ColumnElement, Table, bindparam, func, or_, select, true, update
from sqlalchemy.orm import Session

from backend.errors import LeaseLost
from backend.ledger.engine import Database
from backend.ledger.entities import Evidence, Part, Project, Round
from backend.ledger.evidence import replace_evidence
from backend.ledger.rounds import add_parts, bounded, succeed
from backend.ledger.shapes import ManifestEntry, NoPayload, Payload, Result, ScorePayload, Stage

LEASE_S = 30.0
"""How long a part stays with a silent worker; it renews every sixth of this."""

DELIVER_AGAIN_S = 20.0
"""A waiting part that is not in Redis this long after its delivery is delivered again."""

LONGEST_DELAY_S = 30.0
"""The longest that a part which failed waits for its next attempt."""


@dataclass(frozen=True)
class Outcome:
    """What a part writes when it is done.

    Attributes:
        result: of the part itself; small.
        next_payloads: one for each part of the next stage; used by the part that ends the stage.
        config: the round's ``TrainConfig`` as JSON text; None leaves it as it is.
        manifest: the round's; None leaves it as it is.
        problems: sentences for the round's list.
        judged: evidence, in place of what there is of its tasks.
        withdrawn: tasks whose evidence is deleted.
    """

    result: Result = field(default_factory=Result)
    next_payloads: Sequence[Payload] = (NoPayload(),)
    config: str | None = None
    manifest: Sequence[ManifestEntry] | None = None
    problems: Sequence[str] = ()
    judged: Sequence[Evidence] = ()
    withdrawn: Collection[int] = ()


_RENEW = (
    update(cast(Table, Part.__table__))
    .where(Part.id == bindparam("held"), Part.token == bindparam("by"), Part.state == "leased")
    .values(lease_until=bindparam("until"), progress=bindparam("so_far"))
)


class Parts:
    """The parts of all rounds."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def of_round(self, round_id: int, stage: Stage | None = None) -> list[Part]:
        """The parts of a round, or of one of its stages, in order."""
        query = select(Part).where(Part.round_id == round_id).order_by(Part.id)
        if stage is not None:
            query = query.where(Part.stage == stage)
        with self._db.read() as db:
            return list(db.scalars(query))

    def results(self, round_id: int, stage: Stage) -> list[Result]:
        """What the finished parts of a stage keep of themselves, in order."""
        return [p.result for p in self.of_round(round_id, stage) if p.result is not None]

    def to_score(self, round_id: int) -> list[ScorePayload]:
        """What the scoring parts of a round were given, in order."""
        return [cast(ScorePayload, part.payload) for part in self.of_round(round_id, "score")]

    def waiting(self, server: str | None = None) -> list[Part]:
        """Parts to be delivered now; those whose lease has expired are among them.

        A time further ahead than anything ever waits was written before the clock was set back;
        such a part waits no longer than it would have.

        Args:
            server: only of this Label Studio's projects.
        """
        with self._db.write() as db:
            now = time.time()  # nothing that others wrote before this transaction lies ahead of it
            leased = Part.state == "leased"
            db.execute(
                update(Part)
                .where(leased, Part.lease_until > now + LEASE_S)
                .values(lease_until=now + LEASE_S)
            )
            db.execute(
                update(Part)
                .where(leased, Part.lease_until < now)
                .values(state="waiting", token=None, holder=None, lease_until=None)
            )
            return list(
                db.scalars(
                    select(Part)
                    .join(Round, Round.id == Part.round_id)
                    .where(
                        Part.state == "waiting",
                        _is_due(now),
                        Round.state == "active",
                        _of_server(server),
                        or_(
                            Part.delivered_at.is_(None),
                            Part.delivered_at < now - DELIVER_AGAIN_S,
                            Part.delivered_at > now,
                            # Taken and given back since: its old job is gone.
                            Part.delivered_at < Part.started_at,
                        ),
                    )
                    .order_by(Part.round_id, Part.number)
                )
            )

    def mark_delivered(self, part_id: int) -> None:
        """Nothing if the part has gone with its project meanwhile."""
        with self._db.write() as db:
            if (part := db.get(Part, part_id)) is not None:
                part.deliveries, part.delivered_at = part.deliveries + 1, time.time()

    def take(self, part_id: int, holder: str, server: str | None = None) -> Part | None:
        """Lease a part; None if it is done, dropped, or another worker's.

        Args:
            server: the Label Studio that the holder works with; another's part is not for it.
        """
        now = time.time()
        with self._db.write() as db:
            part = db.scalars(
                select(Part).where(Part.id == part_id, _free(now), _of_server(server))
            ).first()
            return None if part is None else _lease(part, holder, now)

    def take_in_turn(
        self,
        part_id: int,
        holder: str,
        server: str,
        same_turn: Collection[Collection[Stage]],
    ) -> Part | None:
        """Lease the part whose project's turn it is, of those whose jobs wait beside this one's.

        One job stands for each part, and which part it does is decided here: so a project with
        many holds up none with few. It is the turn of the project whose last part was taken longest
        ago. None if no part waits.

        Args:
            same_turn: groups of stages whose jobs may do one another's parts.
        """
        with self._db.write() as db:
            named = db.get(Part, part_id)
            if named is None:
                return None
            now = time.time()
            stages = next(group for group in same_turn if named.stage in group)
            waits = (
                _free(now)
                & Part.stage.in_(stages)
                & _is_due(now)
                & (Part.delivered_at.is_not(None) | (Part.id == part_id))
                & _of_server(server)
            )
            # One for each project.
            rounds = db.scalars(select(Part.round_id).where(waits).distinct()).all()
            if not rounds:
                return None
            # What lies ahead was written before the clock was set back.
            taken = select(Part.round_id, func.max(Part.started_at)).where(
                Part.round_id.in_(rounds), Part.started_at <= now
            )
            last_taken = dict(db.execute(taken.group_by(Part.round_id)).all())
            turn = min(rounds, key=lambda round_id: (last_taken.get(round_id) or 0.0, round_id))
            first = select(Part).where(waits, Part.round_id == turn).order_by(Part.id).limit(1)
            return _lease(db.scalars(first).one(), holder, now)

    def renew(self, taken: Part, progress: float) -> bool:
        """Keep the lease of a part that was taken; False when it is no longer this worker's."""
        held = {"held": taken.id, "by": taken.token}
        now = {"until": time.time() + LEASE_S, "so_far": progress}
        return self._db.write_alone(_RENEW, {**held, **now}).rowcount == 1

    def renew_young(self, holders: Collection[str], younger_than_s: float) -> None:
        """Keep the leases of parts that these workers took a short while ago."""
        now = time.time()
        with self._db.write() as db:
            db.execute(
                update(Part)
                .where(
                    Part.state == "leased",
                    Part.holder.in_(holders),
                    Part.started_at.between(now - younger_than_s, now),
                )
                .values(lease_until=now + LEASE_S)
            )

    def release(self, holders: Collection[str], *, died: bool) -> list[Part]:
        """Give back at once what these workers held, whose leases nobody renews any more.

        Args:
            died: they were killed, maybe by what they did; else they were stopped, which is not
                the part's fault and counts as no attempt.

        Returns:
            What they held.
        """
        with self._db.write() as db:
            held = select(Part).where(Part.state == "leased", Part.holder.in_(holders))
            released = list(db.scalars(held))
            for part in released:
                _give_back(part)
                part.attempts -= 0 if died else 1
            return released

    def holders(self) -> set[str]:
        """The workers that hold a part now, or held it when they were last heard of."""
        with self._db.read() as db:
            held = db.scalars(select(Part.holder).where(Part.state == "leased"))
            return {holder for holder in held if holder is not None}

    def retry(self, taken: Part, delay_s: float) -> None:
        """Give back a part that was taken, to be tried again after a while.

        Raises:
            LeaseLost: the part is not this worker's any more.
        """
        with self._db.write() as db:
            part = _must_hold(db, taken)
            _give_back(part)
            part.not_before = time.time() + delay_s

    def finish(self, taken: Part, outcome: Outcome, *, next_stage: Stage | None) -> bool:
        """Write the outcome of a part that was taken.

        The last part of its stage opens the next stage, or ends the round.

        Args:
            next_stage: what follows; None ends the round as succeeded.

        Returns:
            True if this ended the stage.

        Raises:
            LeaseLost: the part is not this worker's any more; nothing was written.
        """
        now = time.time()
        with self._db.write() as db:
            part = _must_hold(db, taken)
            part.state, part.result, part.progress = "done", outcome.result, 1.0
            part.ended_at, part.token, part.lease_until = now, None, None
            round_ = db.get_one(Round, part.round_id)
            replace_evidence(db, round_.project_id, outcome.judged, outcome.withdrawn)
            if outcome.config is not None:
                round_.config = outcome.config
            if outcome.manifest is not None:
                round_.manifest = list(outcome.manifest)
            if outcome.problems:
                round_.problems = bounded([*round_.problems, *outcome.problems])
            stage_ended = _all_done(db, round_.id, part.stage)
            if stage_ended:
                taken_s = round(now - round_.stage_started_at, 3)
                round_.timings = {**round_.timings, part.stage: taken_s}
                round_.stage_started_at = now
                if next_stage is None:
                    succeed(db, round_, now)
                else:
                    round_.stage = next_stage
                    add_parts(db, round_.id, next_stage, outcome.next_payloads)
            return stage_ended


def _free(now: float) -> ColumnElement[bool]:
    return or_(Part.state == "waiting", (Part.state == "leased") & (Part.lease_until < now))


def _is_due(now: float) -> ColumnElement[bool]:
    return or_(Part.not_before <= now, Part.not_before > now + LONGEST_DELAY_S)


def _lease(part: Part, holder: str, now: float) -> Part:
    part.state, part.token, part.holder = "leased", secrets.token_hex(16), holder
    part.lease_until, part.started_at = now + LEASE_S, now
    part.attempts += 1
    return part


def _of_server(server: str | None) -> ColumnElement[bool]:
    if server is None:
        return true()
    rounds = select(Round.id).join(Project).where(Project.server == server)
    return Part.round_id.in_(rounds)


def _must_hold(db: Session, taken: Part) -> Part:
    held = (Part.id == taken.id, Part.token == taken.token, Part.state == "leased")
    part = db.scalars(select(Part).where(*held)).first()
    if part is None:
        raise LeaseLost(f"Part {taken.id} belongs to another worker now; this result is dropped.")
    return part


def _give_back(part: Part) -> None:
    part.state, part.token, part.holder, part.lease_until = "waiting", None, None, None


def _all_done(db: Session, round_id: int, stage: Stage) -> bool:
    undone = select(func.count()).where(
        Part.round_id == round_id, Part.stage == stage, Part.state != "done"
    )
    return db.scalar(undone) == 0
