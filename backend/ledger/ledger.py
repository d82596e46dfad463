"""The ledger: events, rounds and their parts, versions, evidence, publications, processes.

Every fact that must outlive a process is a row here. Methods are short transactions; nothing
above this module sees SQL. Writes take SQLite's lock at once (BEGIN IMMEDIATE), so that two
writers queue up rather than fail half way, and wait at most ``busy_s`` for it.

A *part* is one job of a round's stage. A worker takes it by a lease and must renew that; whoever
holds no lease writes nothing. The part that ends a stage opens the next one in the same
transaction, so a round stands after any crash exactly where its rows say.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    RowMapping,
    Select,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    null,
    or_,
    select,
    true,
    union,
    update,
)
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from backend.errors import LeaseLost, LedgerUnavailable, UnknownProject
from backend.ledger.tables import (
    events,
    evidence,
    parts,
    processes,
    projects,
    publications,
    ranking,
    rounds,
    versions,
)

Row = RowMapping

LEASE_S = 30.0
"""How long a part stays with a silent worker; it renews every third of this."""

DELIVER_AGAIN_S = 20.0
"""A waiting part that is not in Redis this long after its delivery is delivered again."""

LONGEST_WAIT_S = 3600.0
"""The longest that a failing project's rounds wait for the next try."""

LONGEST_DELAY_S = 30.0
"""The longest that a part which failed waits for its next attempt."""

START = "start"
"""The kind of the rounds before the first version: they rank without one."""

NO_VERSION = 0
"""What a start round's publication has in place of a version's number."""

LOG_BYTES = 32 * 2**20
"""Of SQLite's write-ahead log between two checkpoints, on disk."""

KEEP_PROBLEMS = 200
"""Sentences on a round's list: more nobody reads, and every part would write them anew."""

_AND_MORE = re.compile(r"And (\d+) more problems\.")

HEAD = "0002"
"""The schema revision that this code reads and writes."""


def make_engine(url: str, busy_s: float) -> Engine:
    """An engine whose writes begin IMMEDIATE and whose reads never block (WAL)."""
    engine = create_engine(url, connect_args={"timeout": busy_s})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # pysqlite would open transactions by itself, and only at the first write.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        # A long read lets the log beside the ledger grow; afterwards it is cut to this again.
        cursor.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def upgrade(url: str) -> None:
    """Bring the ledger at ``url`` to this code's schema; safe to repeat."""
    from alembic import command
    from alembic.config import Config

    engine = make_engine(url, busy_s=30)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with engine.connect().execution_options(immediate=True) as connection:
            config.attributes["connection"] = connection
            revision = _revision(connection)
            connection.rollback()
            if revision is not None and revision > HEAD:
                raise LedgerUnavailable(_newer(revision))
            command.upgrade(config, "head")
            connection.commit()
    except DatabaseError as error:
        raise LedgerUnavailable(f"The ledger at {url} cannot be opened: {error.orig}.") from error
    finally:
        engine.dispose()


def _revision(connection: Connection) -> str | None:
    has = connection.exec_driver_sql(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    ).first()
    if has is None:
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def _newer(revision: str) -> str:
    return (
        f"The ledger has schema {revision}, this release knows up to {HEAD}: "
        "install the newer release, or use another DATA_DIR."
    )


class Ledger:
    """Facts, in SQL. One instance a process; safe between threads.

    Args:
        url: SQLAlchemy URL of a SQLite file.
        busy_s: longest wait for the write lock, seconds. The web waits less than the second that
            Label Studio gives a webhook; workers can wait longer.
    """

    def __init__(self, url: str, busy_s: float = 10.0) -> None:
        self.url = url
        self._engine = make_engine(url, busy_s)
        self._busy_s = busy_s
        self._writing = threading.Lock()

    def close(self) -> None:
        self._engine.dispose()

    def check_schema(self) -> None:
        """Refuse a ledger that is not of this release.

        Raises:
            LedgerUnavailable: no ledger yet, an older one, or a newer one.
        """
        with self._read() as db:
            revision = _revision(db)
        if revision is not None and revision > HEAD:
            raise LedgerUnavailable(_newer(revision))
        if revision != HEAD:
            raise LedgerUnavailable(
                f"The ledger has schema {revision or 'none'}, this release needs {HEAD}: "
                "run `python -m backend migrate`."
            )

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with _as_sentence(), self._engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with (
            self._turn(),
            _as_sentence(),
            self._engine.connect().execution_options(immediate=True) as db,
            db.begin(),
        ):
            yield db

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One writer of this process at a time: threads wake each other at once, where SQLite has
        every one that waits sleep for up to a tenth of a second, and serves them in no order."""
        if not self._writing.acquire(timeout=self._busy_s / 2):
            raise LedgerUnavailable(
                "The ledger cannot be written now: others of this process have waited for it for "
                f"{self._busy_s / 2:g} s. Is another process holding it?"
            )
        try:
            yield
        finally:
            self._writing.release()

    # Projects

    def ensure_project(
        self,
        server: str,
        studio_id: int,
        created: int,
        *,
        title: str | None = None,
        label_config: str | None = None,
        extra_params: Mapping[str, Any] | None = None,
    ) -> Row:
        """The project of this key, made if new; given fields are written where they differ."""
        fields: dict[str, Any] = {
            name: value
            for name, value in (
                ("title", title),
                ("label_config", label_config),
                ("extra_params", None if extra_params is None else dict(extra_params)),
            )
            if value is not None
        }
        found = self._project_by_key(server, studio_id, created)
        if found is not None and all(found[name] == value for name, value in fields.items()):
            return found
        with self._write() as db:
            key = (
                (projects.c.server == server)
                & (projects.c.studio_id == studio_id)
                & (projects.c.created == created)
            )
            if db.execute(select(projects.c.id).where(key)).first() is None:
                db.execute(
                    insert(projects).values(
                        server=server,
                        studio_id=studio_id,
                        created=created,
                        slug=project_slug(server, studio_id, created),
                        **fields,
                    )
                )
            elif fields:
                db.execute(update(projects).where(key).values(**fields))
            return db.execute(select(projects).where(key)).mappings().one()

    def _project_by_key(self, server: str, studio_id: int, created: int) -> Row | None:
        with self._read() as db:
            return (
                db.execute(
                    select(projects).where(
                        projects.c.server == server,
                        projects.c.studio_id == studio_id,
                        projects.c.created == created,
                    )
                )
                .mappings()
                .first()
            )

    def project(self, project_id: int) -> Row:
        """The ledger's project row; ``project_id`` is the ledger's own number."""
        with self._read() as db:
            row = db.execute(select(projects).where(projects.c.id == project_id)).mappings().first()
        if row is None:
            raise UnknownProject(f"The ledger knows no project number {project_id}.")
        return row

    def project_of_studio(self, server: str, studio_id: int) -> Row:
        """The newest project of that Label Studio number.

        Raises:
            UnknownProject: it was never connected.
        """
        with self._read() as db:
            row = (
                db.execute(
                    select(projects)
                    .where(projects.c.server == server, projects.c.studio_id == studio_id)
                    .order_by(projects.c.created.desc())
                )
                .mappings()
                .first()
            )
        if row is None:
            raise UnknownProject(
                f"Project {studio_id} of {server} is not connected: "
                f"run `python -m backend connect --project {studio_id}`."
            )
        return row

    def projects(self, *, connected_only: bool = False, server: str | None = None) -> list[Row]:
        """The projects, of one Label Studio server if it is named."""
        query = select(projects).order_by(projects.c.id)
        if server is not None:
            query = query.where(projects.c.server == server)
        if connected_only:
            query = query.where(projects.c.connected)
        with self._read() as db:
            return list(db.execute(query).mappings())

    def update_project(self, project_id: int, **fields: Any) -> None:
        with self._write() as db:
            db.execute(update(projects).where(projects.c.id == project_id).values(**fields))

    def forget_project(self, project_id: int) -> None:
        """Delete everything that the ledger holds of a project."""
        with self._write() as db:
            own_rounds = select(rounds.c.id).where(rounds.c.project_id == project_id)
            own_publications = select(publications.c.id).where(
                publications.c.project_id == project_id
            )
            db.execute(delete(ranking).where(ranking.c.publication_id.in_(own_publications)))
            db.execute(delete(parts).where(parts.c.round_id.in_(own_rounds)))
            for table in (evidence, publications, versions, events, rounds):
                db.execute(delete(table).where(table.c.project_id == project_id))
            db.execute(delete(projects).where(projects.c.id == project_id))

    # Events

    def add_event(self, project_id: int, action: str, ids: Sequence[int] = ()) -> int:
        """Write what happened before anybody is told that it was heard."""
        with self._write() as db:
            result = db.execute(
                insert(events).values(
                    project_id=project_id,
                    action=action,
                    ids=list(ids),
                    received_at=time.time(),
                    handled=False,
                )
            )
            return _new_id(result)

    def pending_events(self, project_id: int) -> list[Row]:
        with self._read() as db:
            return list(
                db.execute(
                    select(events)
                    .where(events.c.project_id == project_id, ~events.c.handled)
                    .order_by(events.c.id)
                ).mappings()
            )

    def outline_of_events(self, project_id: int, *, whole: str) -> list[Row]:
        """Of the unhandled events, the first and the last of each action, oldest first.

        A burst that waits for a round to end can be many thousands, and the clock looks every
        second.

        Args:
            whole: the action whose events are wanted one and all.
        """
        pending = (events.c.project_id == project_id) & ~events.c.handled
        ends = [
            select(end(events.c.id)).where(pending).group_by(events.c.action)
            for end in (func.min, func.max)
        ]
        wanted = or_(events.c.id.in_(union(*ends)), events.c.action == whole)
        with self._read() as db:
            return list(
                db.execute(select(events).where(pending, wanted).order_by(events.c.id)).mappings()
            )

    def handle_events(self, event_ids: Sequence[int]) -> None:
        if not event_ids:
            return
        with self._write() as db:
            # One by one: a statement takes no more than 32,766 values.
            db.execute(
                update(events).where(events.c.id == bindparam("done")).values(handled=True),
                [{"done": event_id} for event_id in event_ids],
            )

    def drop_old_events(self, older_than_s: float) -> None:
        """Forget the handled events, and of those that nobody came to handle all but the last of
        each action: that one still says that there is something to look at."""
        old = events.c.received_at < time.time() - older_than_s
        last = select(func.max(events.c.id)).group_by(events.c.project_id, events.c.action)
        with self._write() as db:
            db.execute(delete(events).where(old, or_(events.c.handled, events.c.id.not_in(last))))

    def last_event_at(self, project_id: int) -> float | None:
        with self._read() as db:
            return db.execute(
                select(func.max(events.c.received_at)).where(events.c.project_id == project_id)
            ).scalar()

    # Rounds

    def start_round(
        self, project_id: int, kind: str, reason: str, stage: str, payload: Mapping[str, Any]
    ) -> Row | None:
        """Open a round with the one part of its first stage; None if one is under way."""
        now = time.time()
        try:
            with self._write() as db:
                opened = db.execute(
                    insert(rounds).values(
                        project_id=project_id,
                        kind=kind,
                        reason=reason,
                        stage=stage,
                        state="active",
                        started_at=now,
                        stage_started_at=now,
                    )
                )
                round_id = _new_id(opened)
                if kind == "train":
                    highest = db.execute(
                        select(func.max(rounds.c.version)).where(rounds.c.project_id == project_id)
                    ).scalar()
                    db.execute(
                        update(rounds)
                        .where(rounds.c.id == round_id)
                        .values(version=(highest or 0) + 1)
                    )
                _add_parts(db, round_id, stage, [payload])
                return db.execute(select(rounds).where(rounds.c.id == round_id)).mappings().one()
        except IntegrityError:
            return None

    def round(self, round_id: int) -> Row:
        with self._read() as db:
            return db.execute(select(rounds).where(rounds.c.id == round_id)).mappings().one()

    def active_round(self, project_id: int) -> Row | None:
        with self._read() as db:
            return (
                db.execute(
                    select(rounds).where(
                        rounds.c.project_id == project_id, rounds.c.state == "active"
                    )
                )
                .mappings()
                .first()
            )

    def last_round(
        self, project_id: int, *, kind: str | None = None, state: str | None = None
    ) -> Row | None:
        query = select(rounds).where(rounds.c.project_id == project_id).order_by(rounds.c.id.desc())
        if kind is not None:
            query = query.where(rounds.c.kind == kind)
        if state is not None:
            query = query.where(rounds.c.state == state)
        with self._read() as db:
            return db.execute(query.limit(1)).mappings().first()

    def last_manifest(self, project_id: int) -> list[dict[str, Any]]:
        """What the last attempted training round used; empty before the first."""
        with self._read() as db:
            found = db.execute(
                select(rounds.c.manifest)
                .where(
                    rounds.c.project_id == project_id,
                    rounds.c.kind == "train",
                    rounds.c.manifest.is_not(None),
                )
                .order_by(rounds.c.id.desc())
                .limit(1)
            ).scalar()
        return found or []

    def kept_manifests(self, project_id: int, count: int) -> list[list[dict[str, Any]]]:
        """The newest ``count`` manifests, whose examples must stay."""
        with self._read() as db:
            found = db.execute(
                select(rounds.c.manifest)
                .where(rounds.c.project_id == project_id, rounds.c.manifest.is_not(None))
                .order_by(rounds.c.id.desc())
                .limit(count)
            ).scalars()
            return [manifest or [] for manifest in found]

    def forget_workings(
        self, project_id: int, keep: int, keep_manifests: int, versions_kept: Collection[int]
    ) -> None:
        """Forget what older rounds worked with: their jobs, problems and manifests, and the
        quantiles of their publications. Their rows stay, with how they began and ended.

        Args:
            keep: rounds that keep their jobs and problems; the one that made the serving
                publication does as well, and an active one keeps all.
            keep_manifests: newest manifests that stay.
            versions_kept: versions whose rounds keep their manifest: what they have learnt from.
        """
        of_project = rounds.c.project_id == project_id
        with_manifest = of_project & rounds.c.manifest.is_not(None)
        newest = select(rounds.c.id).where(of_project).order_by(rounds.c.id.desc()).limit(keep)
        newest_manifests = (
            select(rounds.c.id)
            .where(with_manifest)
            .order_by(rounds.c.id.desc())
            .limit(keep_manifests)
        )
        serving = select(publications.c.round_id).where(
            publications.c.project_id == project_id, publications.c.state == "serving"
        )
        learnt = select(versions.c.round_id).where(
            versions.c.project_id == project_id, versions.c.number.in_(versions_kept)
        )
        with self._write() as db:
            old = list(
                db.execute(
                    select(rounds.c.id).where(
                        of_project,
                        rounds.c.state != "active",
                        rounds.c.id.not_in(newest),
                        rounds.c.id.not_in(serving),
                        # Forgotten already, if it has none.
                        rounds.c.id.in_(select(parts.c.round_id)),
                    )
                ).scalars()
            )
            db.execute(delete(parts).where(parts.c.round_id.in_(old)))
            db.execute(update(rounds).where(rounds.c.id.in_(old)).values(problems=[]))
            db.execute(
                update(publications)
                .where(publications.c.round_id.in_(old))
                .values(quantiles=[], arm_quantiles=None)
            )
            db.execute(
                update(rounds)
                .where(
                    with_manifest,
                    rounds.c.state != "active",
                    rounds.c.id.not_in(newest_manifests),
                    rounds.c.id.not_in(learnt),
                )
                .values(manifest=null())
            )

    def fail_round(self, round_id: int, error: str) -> None:
        """End a round with its reason; the publication that serves is left alone.

        The project's next rounds wait, but not for a start round's sake: training must not.
        """
        now = time.time()
        with self._write() as db:
            row = db.execute(select(rounds).where(rounds.c.id == round_id)).mappings().one()
            if row["state"] != "active":
                return
            db.execute(
                update(rounds)
                .where(rounds.c.id == round_id)
                .values(state="failed", error=error, ended_at=now)
            )
            _drop_parts(db, round_id)
            failures = db.execute(
                select(projects.c.failures).where(projects.c.id == row["project_id"])
            ).scalar_one()
            said: dict[str, Any] = {"last_error": error}
            if row["kind"] != START:
                said["failures"] = failures + 1
                # Doubles from one minute to one hour; the button does not wait for it.
                said["not_before"] = now + min(LONGEST_WAIT_S, 60.0 * 2.0 ** min(failures, 10))
            db.execute(update(projects).where(projects.c.id == row["project_id"]).values(**said))
            # When a round ends, what came meanwhile is counted again.
            _add_event(db, row["project_id"], "ROUND_ENDED", now)

    def cancel_round(self, round_id: int, reason: str) -> bool:
        """End a round for a better one; False if it has ended already."""
        with self._write() as db:
            ended = db.execute(
                update(rounds)
                .where(rounds.c.id == round_id, rounds.c.state == "active")
                .values(state="cancelled", error=reason, ended_at=time.time())
            )
            if ended.rowcount == 1:
                _drop_parts(db, round_id)
            return ended.rowcount == 1

    # Parts

    def waiting_parts(self, server: str | None = None) -> list[Row]:
        """Parts to be delivered now, with their round's project; expired leases come back here.

        Args:
            server: only of this Label Studio's projects.

        What lies further ahead than any of it ever waits was noted before the clock was set back,
        and waits no longer than it would have.
        """
        ours = true() if server is None else rounds.c.project_id.in_(_projects_of(server))
        with self._write() as db:
            now = time.time()  # none that others noted before this turn lies ahead of it
            leased = parts.c.state == "leased"
            db.execute(
                update(parts)
                .where(leased, parts.c.lease_until > now + LEASE_S)
                .values(lease_until=now + LEASE_S)
            )
            expired = leased & (parts.c.lease_until < now)
            db.execute(
                update(parts)
                .where(expired)
                .values(state="waiting", token=None, holder=None, lease_until=None)
            )
            return list(
                db.execute(
                    select(parts, rounds.c.project_id)
                    .join(rounds, rounds.c.id == parts.c.round_id)
                    .where(
                        parts.c.state == "waiting",
                        or_(
                            parts.c.not_before <= now,
                            parts.c.not_before > now + LONGEST_DELAY_S,
                        ),
                        rounds.c.state == "active",
                        ours,
                        or_(
                            parts.c.delivered_at.is_(None),
                            parts.c.delivered_at < now - DELIVER_AGAIN_S,
                            parts.c.delivered_at > now,
                            # Taken and given back since: its old job is gone.
                            parts.c.delivered_at < parts.c.started_at,
                        ),
                    )
                    .order_by(parts.c.round_id, parts.c.number)
                ).mappings()
            )

    def mark_delivered(self, part_id: int) -> None:
        with self._write() as db:
            db.execute(
                update(parts)
                .where(parts.c.id == part_id)
                .values(deliveries=parts.c.deliveries + 1, delivered_at=time.time())
            )

    def take_part(self, part_id: int, holder: str, server: str | None = None) -> Row | None:
        """Lease a part; None if it is done, dropped, or another worker's.

        Args:
            server: the Label Studio that the holder works with; another's part is not for it.
        """
        now = time.time()
        its_rounds = select(rounds.c.id).where(rounds.c.project_id.in_(_projects_of(server or "")))
        with self._write() as db:
            taken = db.execute(
                update(parts)
                .where(
                    parts.c.id == part_id,
                    true() if server is None else parts.c.round_id.in_(its_rounds),
                    or_(
                        parts.c.state == "waiting",
                        (parts.c.state == "leased") & (parts.c.lease_until < now),
                    ),
                )
                .values(
                    state="leased",
                    token=secrets.token_hex(16),
                    holder=holder,
                    lease_until=now + LEASE_S,
                    attempts=parts.c.attempts + 1,
                    started_at=now,
                )
            )
            if taken.rowcount == 0:
                return None
            return db.execute(select(parts).where(parts.c.id == part_id)).mappings().one()

    def renew_part(self, part_id: int, token: str, progress: float) -> bool:
        """Keep a lease alive; False when it is no longer this worker's."""
        with self._write() as db:
            renewed = db.execute(
                update(parts)
                .where(parts.c.id == part_id, parts.c.token == token)
                .values(lease_until=time.time() + LEASE_S, progress=progress)
            )
            return renewed.rowcount == 1

    def renew_young_parts(self, holders: Collection[str], younger_than_s: float) -> None:
        """Keep the leases of parts that these workers took a short while ago."""
        now = time.time()
        with self._write() as db:
            db.execute(
                update(parts)
                .where(
                    parts.c.state == "leased",
                    parts.c.holder.in_(holders),
                    parts.c.started_at.between(now - younger_than_s, now),
                )
                .values(lease_until=now + LEASE_S)
            )

    def release_parts(self, holders: Collection[str], *, died: bool) -> None:
        """Give back at once what these workers held, whose leases nobody renews any more.

        Args:
            died: they were killed, maybe by what they did; else they were stopped, which is not
                the part's fault and counts as no attempt.
        """
        attempts = parts.c.attempts if died else parts.c.attempts - 1
        with self._write() as db:
            db.execute(
                update(parts)
                .where(parts.c.state == "leased", parts.c.holder.in_(holders))
                .values(
                    state="waiting", token=None, holder=None, lease_until=None, attempts=attempts
                )
            )

    def holders(self) -> set[str]:
        """The workers that hold a part now, or held it when they were last heard of."""
        with self._read() as db:
            held = select(parts.c.holder).where(parts.c.state == "leased")
            return set(db.execute(held).scalars())

    def retry_part(self, part_id: int, token: str, delay_s: float) -> None:
        with self._write() as db:
            _held(db, part_id, token)
            db.execute(
                update(parts)
                .where(parts.c.id == part_id)
                .values(
                    state="waiting",
                    token=None,
                    holder=None,
                    lease_until=None,
                    not_before=time.time() + delay_s,
                )
            )

    def finish_part(
        self,
        part_id: int,
        token: str,
        result: Mapping[str, Any],
        *,
        next_stage: str | None,
        next_payloads: Sequence[Mapping[str, Any]],
        round_values: Mapping[str, Any] | None = None,
        problems: Sequence[str] = (),
        judged: Sequence[Mapping[str, Any]] = (),
        withdrawn: Collection[int] = (),
    ) -> bool:
        """Write a part's result; the last of its stage opens the next, or ends the round.

        Args:
            next_stage: what follows; None ends the round as succeeded.
            next_payloads: one for each part of the next stage.
            round_values: columns of the round to write with it.
            problems: sentences for the round's list.
            judged: rows of evidence, in place of what there is of their tasks.
            withdrawn: tasks whose evidence goes.

        Returns:
            True if this ended the stage.

        Raises:
            LeaseLost: the part is not this worker's any more; nothing was written.
        """
        now = time.time()
        with self._write() as db:
            part = _held(db, part_id, token)
            round_id = part["round_id"]
            db.execute(
                update(parts)
                .where(parts.c.id == part_id)
                .values(
                    state="done",
                    result=dict(result),
                    progress=1.0,
                    ended_at=now,
                    token=None,
                    lease_until=None,
                )
            )
            row = db.execute(select(rounds).where(rounds.c.id == round_id)).mappings().one()
            _put_evidence(db, row["project_id"], judged, withdrawn)
            values = dict(round_values or {})
            if problems:
                values["problems"] = _bounded([*row["problems"], *problems])
            stage_ended = _all_done(db, round_id, part["stage"])
            if stage_ended:
                timings = dict(row["timings"])
                timings[part["stage"]] = round(now - row["stage_started_at"], 3)
                values |= {"timings": timings, "stage_started_at": now}
                if next_stage is None:
                    values |= {"state": "succeeded", "ended_at": now}
                    _note_success(db, row, now)
                else:
                    values["stage"] = next_stage
                    _add_parts(db, round_id, next_stage, next_payloads)
            if values:
                db.execute(update(rounds).where(rounds.c.id == round_id).values(**values))
            return stage_ended

    def parts(self, round_id: int, stage: str | None = None) -> list[Row]:
        query = select(parts).where(parts.c.round_id == round_id).order_by(parts.c.id)
        if stage is not None:
            query = query.where(parts.c.stage == stage)
        with self._read() as db:
            return list(db.execute(query).mappings())

    # Versions

    def record_version(
        self,
        project_id: int,
        number: int,
        round_id: int,
        *,
        state: str,
        reason: str,
        members: int,
        classes: Sequence[str],
        metrics: Mapping[str, Any],
    ) -> None:
        """Write a version's fate; the same round may say it again after a crash."""
        values = {
            "round_id": round_id,
            "state": state,
            "reason": reason,
            "members": members,
            "classes": list(classes),
            "metrics": dict(metrics),
        }
        same = (versions.c.project_id == project_id) & (versions.c.number == number)
        with self._write() as db:
            if db.execute(update(versions).where(same).values(**values)).rowcount == 0:
                db.execute(
                    insert(versions).values(
                        project_id=project_id, number=number, created_at=time.time(), **values
                    )
                )

    def versions(self, project_id: int) -> list[Row]:
        """Newest first."""
        with self._read() as db:
            return list(
                db.execute(
                    select(versions)
                    .where(versions.c.project_id == project_id)
                    .order_by(versions.c.number.desc())
                ).mappings()
            )

    def set_version_state(self, project_id: int, number: int, state: str, reason: str) -> None:
        with self._write() as db:
            db.execute(
                update(versions)
                .where(versions.c.project_id == project_id, versions.c.number == number)
                .values(state=state, reason=reason)
            )

    def promoted_version(self, project_id: int) -> Row | None:
        """The version that ranks now: the newest promoted one."""
        with self._read() as db:
            return (
                db.execute(
                    select(versions)
                    .where(versions.c.project_id == project_id, versions.c.state == "promoted")
                    .order_by(versions.c.number.desc())
                    .limit(1)
                )
                .mappings()
                .first()
            )

    # Evidence

    def evidence(self, project_id: int) -> list[Row]:
        """What was judged, by the round that did it first."""
        with self._read() as db:
            return list(
                db.execute(
                    select(evidence)
                    .where(evidence.c.project_id == project_id)
                    .order_by(evidence.c.round_id, evidence.c.task_id)
                ).mappings()
            )

    def withdraw_evidence(self, project_id: int, task_ids: Collection[int]) -> None:
        """Take back what was judged of these tasks."""
        with self._write() as db:
            _put_evidence(db, project_id, (), task_ids)

    def chosen_for(self, project_id: int, labelled_at: Mapping[int, float]) -> dict[int, str]:
        """Task id to why it was asked for, by the newest queue that held it when it was labelled.

        A queue that came later may hold it for another reason, and nobody saw it there.

        Args:
            labelled_at: task id to when its annotation was made, unix seconds.
        """
        with self._read() as db:
            found = db.execute(
                select(ranking.c.task_id, ranking.c.why, publications.c.served_at)
                .join(publications, publications.c.id == ranking.c.publication_id)
                # Whatever became of it: one that failed was never served.
                .where(
                    publications.c.project_id == project_id,
                    publications.c.served_at.is_not(None),
                )
                .order_by(publications.c.served_at)
            )
            return {  # the newest is said last
                row.task_id: row.why
                for row in found
                if row.task_id in labelled_at and row.served_at <= labelled_at[row.task_id]
            }

    # Publications

    def prepare_publication(
        self,
        project_id: int,
        version: int,
        round_id: int,
        *,
        arm: str,
        quantiles: Sequence[float],
        rows: Sequence[Mapping[str, Any]],
        taken: Collection[str] = (),
        mode: str | None = None,
        weights: Mapping[str, float] | None = None,
        arm_quantiles: Mapping[str, Sequence[float]] | None = None,
    ) -> Row:
        """A new publication, not yet serving, with its ranking.

        Args:
            arm: the one of the largest weight; "" where none has any.
            quantiles: doubt at the queue's evenly spaced places, most doubtful first.
            rows: task_id, position, doubt, audit, arms and why of each ranked task.
            mode: how the weights came about, as the option says it.
            weights: arm to its weight in the doubt; None where ``arm`` alone is the doubt.
            arm_quantiles: weighted arm to evenly spaced quantiles of all candidates' scores,
                ascending.
            taken: names that Label Studio holds already, a purged ledger's among them.
        """
        with self._write() as db:
            highest = db.execute(
                select(func.max(publications.c.n)).where(
                    publications.c.project_id == project_id, publications.c.version == version
                )
            ).scalar()
            n = (highest or 0) + 1
            while publication_name(version, n) in taken:
                n += 1
            made = db.execute(
                insert(publications).values(
                    project_id=project_id,
                    version=version,
                    n=n,
                    name=publication_name(version, n),
                    round_id=round_id,
                    state="prepared",
                    arm=arm,
                    quantiles=list(quantiles),
                    length=len(rows),
                    made_at=time.time(),
                    mode=mode,
                    weights=weights,
                    arm_quantiles=arm_quantiles,
                )
            )
            publication_id = _new_id(made)
            if rows:
                db.execute(
                    insert(ranking), [{**row, "publication_id": publication_id} for row in rows]
                )
            return (
                db.execute(select(publications).where(publications.c.id == publication_id))
                .mappings()
                .one()
            )

    def serve_publication(self, publication_id: int, stored: int) -> None:
        """Make a publication the serving one; the former is superseded in the same transaction."""
        now = time.time()
        with self._write() as db:
            row = (
                db.execute(select(publications).where(publications.c.id == publication_id))
                .mappings()
                .one()
            )
            db.execute(
                update(publications)
                .where(
                    publications.c.project_id == row["project_id"],
                    publications.c.state == "serving",
                    publications.c.id != publication_id,
                )
                .values(state="superseded", superseded_at=now)
            )
            db.execute(
                update(publications)
                .where(publications.c.id == publication_id)
                .values(state="serving", served_at=now, stored=stored, superseded_at=None)
            )

    def set_publication_state(self, publication_id: int, state: str) -> None:
        values: dict[str, Any] = {"state": state}
        if state in ("failed", "superseded"):
            values["superseded_at"] = time.time()
        with self._write() as db:
            db.execute(
                update(publications).where(publications.c.id == publication_id).values(**values)
            )

    def serving(self, project_id: int) -> Row | None:
        with self._read() as db:
            return (
                db.execute(
                    select(publications).where(
                        publications.c.project_id == project_id,
                        publications.c.state == "serving",
                    )
                )
                .mappings()
                .first()
            )

    def publications(self, project_id: int) -> list[Row]:
        """Newest first."""
        with self._read() as db:
            return list(
                db.execute(
                    select(publications)
                    .where(publications.c.project_id == project_id)
                    .order_by(publications.c.id.desc())
                ).mappings()
            )

    def ranking(self, publication_id: int) -> list[Row]:
        """The ranked tasks, head of the queue first."""
        with self._read() as db:
            return list(
                db.execute(
                    select(ranking)
                    .where(ranking.c.publication_id == publication_id)
                    .order_by(ranking.c.position)
                ).mappings()
            )

    def drop_rankings(self, project_id: int, keep: int, keep_unjudged: int = 0) -> None:
        """Forget the rankings of all but the newest ``keep`` publications that were served.

        One that is prepared since the newest of them may yet be served, and keeps its own.

        Args:
            keep: at least 1: the one that serves.
            keep_unjudged: of those that served after the last training round that succeeded had
                begun, the newest: their labels are not judged yet (``chosen_for``).
        """
        of_project = publications.c.project_id == project_id
        judged_at = (
            select(func.coalesce(func.max(rounds.c.started_at), 0.0))
            .where(
                rounds.c.project_id == project_id,
                rounds.c.kind == "train",
                rounds.c.state == "succeeded",
                rounds.c.manifest.is_not(None),
            )
            .scalar_subquery()
        )
        with self._write() as db:
            kept = list(
                db.execute(
                    select(publications.c.id)
                    .where(of_project, publications.c.served_at.is_not(None))
                    .order_by(publications.c.served_at.desc(), publications.c.id.desc())
                    .limit(keep)
                ).scalars()
            )
            kept += db.execute(
                select(publications.c.id)
                .where(
                    of_project,
                    publications.c.served_at.is_not(None),
                    publications.c.superseded_at >= judged_at,
                )
                .order_by(publications.c.served_at.desc(), publications.c.id.desc())
                .limit(keep_unjudged)
            ).scalars()
            coming = (publications.c.state == "prepared") & (
                publications.c.id > max(kept, default=0)
            )
            old = select(publications.c.id).where(
                of_project, publications.c.id.not_in(kept), ~coming
            )
            db.execute(delete(ranking).where(ranking.c.publication_id.in_(old)))

    # Processes

    def beat(self, process_id: str, role: str, address: str, host: str, pid: int) -> None:
        """Say that a process is alive."""
        now = time.time()
        with self._write() as db:
            seen = db.execute(
                update(processes).where(processes.c.id == process_id).values(seen_at=now)
            )
            if seen.rowcount == 0:
                db.execute(
                    insert(processes).values(
                        id=process_id,
                        role=role,
                        address=address,
                        host=host,
                        pid=pid,
                        started_at=now,
                        seen_at=now,
                    )
                )

    def unbeat(self, process_id: str) -> None:
        with self._write() as db:
            db.execute(delete(processes).where(processes.c.id == process_id))

    def processes(self) -> list[Row]:
        with self._read() as db:
            return list(db.execute(select(processes).order_by(processes.c.role)).mappings())

    def drop_silent_processes(self, silent_s: float) -> None:
        with self._write() as db:
            db.execute(delete(processes).where(processes.c.seen_at < time.time() - silent_s))


def _new_id(result: CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    assert key is not None  # every table here has one
    return int(key[0])


def publication_name(version: int, n: int) -> str:
    """What Label Studio calls the publication: its model_version."""
    return f"committee-v{version}.{n}"


def _projects_of(server: str) -> Select[tuple[int]]:
    return select(projects.c.id).where(projects.c.server == server)


def project_slug(server: str, studio_id: int, created: int) -> str:
    """A folder name for a project: its numbers and a hash of the server's URL."""
    digest = hashlib.sha256(server.encode()).hexdigest()[:8]
    return f"project-{studio_id}-{created}-{digest}"


def _held(db: Connection, part_id: int, token: str) -> Row:
    row = (
        db.execute(
            select(parts).where(
                parts.c.id == part_id, parts.c.token == token, parts.c.state == "leased"
            )
        )
        .mappings()
        .first()
    )
    if row is None:
        raise LeaseLost(f"Part {part_id} belongs to another worker now; this result is dropped.")
    return row


def _all_done(db: Connection, round_id: int, stage: str) -> bool:
    undone = db.execute(
        select(func.count())
        .select_from(parts)
        .where(parts.c.round_id == round_id, parts.c.stage == stage, parts.c.state != "done")
    ).scalar_one()
    return bool(undone == 0)


def _note_success(db: Connection, ended: Row, now: float) -> None:
    """A round went well: its project need not wait any more, nor tell of an error."""
    well = projects.c.id == ended["project_id"]
    if ended["kind"] == START:
        well &= projects.c.failures == 0  # else training still fails
    db.execute(update(projects).where(well).values(last_error=None, failures=0, not_before=0.0))
    _add_event(db, ended["project_id"], "ROUND_ENDED", now)


def _add_parts(
    db: Connection, round_id: int, stage: str, payloads: Sequence[Mapping[str, Any]]
) -> None:
    if not payloads:
        raise ValueError(f"stage {stage} of round {round_id} needs at least one part")
    db.execute(
        insert(parts),
        [
            {"round_id": round_id, "stage": stage, "number": number, "payload": dict(payload)}
            for number, payload in enumerate(payloads)
        ],
    )


def _bounded(problems: Sequence[str]) -> list[str]:
    """A round's list of problems, and how many more there are: a pool may be unreadable whole."""
    kept, said = list(problems), 0
    for problem in problems[KEEP_PROBLEMS:]:
        before = _AND_MORE.fullmatch(problem)
        said += 1 if before is None else int(before[1])
    return kept if said == 0 else [*kept[:KEEP_PROBLEMS], f"And {said} more problems."]


def _drop_parts(db: Connection, round_id: int) -> None:
    db.execute(
        update(parts)
        .where(parts.c.round_id == round_id, parts.c.state != "done")
        .values(state="dropped", token=None, lease_until=None)
    )


def _put_evidence(
    db: Connection,
    project_id: int,
    judged: Sequence[Mapping[str, Any]],
    withdrawn: Collection[int],
) -> None:
    old = [{"gone": task_id} for task_id in {*withdrawn, *(row["task_id"] for row in judged)}]
    if old:
        # One by one: a statement takes no more than 32,766 values.
        db.execute(
            delete(evidence).where(
                evidence.c.project_id == project_id, evidence.c.task_id == bindparam("gone")
            ),
            old,
        )
    if judged:
        now = time.time()
        db.execute(
            insert(evidence),
            [{**row, "project_id": project_id, "judged_at": now} for row in judged],
        )


def _add_event(db: Connection, project_id: int, action: str, now: float) -> None:
    db.execute(
        insert(events).values(
            project_id=project_id, action=action, ids=[], received_at=now, handled=False
        )
    )


@contextmanager
def _as_sentence() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise LedgerUnavailable(
            f"The ledger cannot be read or written now: {error.orig}. "
            "Is its disk full, or another process holding it?"
        ) from error
    except IntegrityError:
        raise  # a rule of ours, which the caller knows
    except DatabaseError as error:
        raise LedgerUnavailable(
            f"The ledger is no database that SQLite can read: {error.orig}. "
            "Restore it, or let LEDGER_URL name another file."
        ) from error
