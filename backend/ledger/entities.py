"""The ledger's rows, one class for each table.

Times are unix seconds. Rows are handed out detached: what a reader changes on one changes nothing
in the ledger. The schema itself is made by the migrations; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from backend.ledger.shapes import (
    ManifestEntry,
    Metrics,
    NoPayload,
    PartState,
    Payload,
    PublicationState,
    Result,
    RoundKind,
    RoundState,
    Stage,
    VersionState,
)

NULLABLE_JSON = JSON(none_as_null=True)

BIG = BigInteger().with_variant(Integer(), "sqlite")
"""Label Studio's numbers, and seconds beyond 2038. An INTEGER of SQLite has room for them."""


def _only_one(name: str, state: str) -> Index:
    """A unique index: at most one row of a project is in this state, whoever writes it."""
    where = text(f"state = '{state}'")
    return Index(name, "project_id", unique=True, sqlite_where=where, postgresql_where=where)


class Base(MappedAsDataclass, DeclarativeBase):
    """What the entities have in common."""

    type_annotation_map = {float: Float}  # noqa: RUF012  # as SQLAlchemy declares it


class Project(Base, kw_only=True):
    """A Label Studio project, known by its server's URL and Label Studio's "<id>.<created>".

    The id alone comes back after Label Studio's database is restored or made anew.

    Attributes:
        studio_id: Label Studio's number.
        created: when Label Studio made it, whole seconds.
        slug: the name of its folder.
        connection: what ``connect`` set in Label Studio, as JSON text; None if not connected.
        failures: training rounds that failed in a row; ``not_before`` is when the next may start.
        pool: tasks in the project when it was last ranked; ``left_out`` of them were readable and
            did not fit into the queue.
    """

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("server", "studio_id", "created"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    server: Mapped[str] = mapped_column(String(500))
    studio_id: Mapped[int] = mapped_column(BIG)
    created: Mapped[int] = mapped_column(BIG)
    slug: Mapped[str] = mapped_column(String(100), unique=True)
    title: Mapped[str] = mapped_column(Text, default="")
    label_config: Mapped[str] = mapped_column(Text, default="")
    extra_params: Mapped[dict[str, object]] = mapped_column(JSON, default_factory=dict)
    connection: Mapped[str | None] = mapped_column(NULLABLE_JSON, default=None)
    connected: Mapped[bool] = mapped_column(default=True)
    paused: Mapped[bool] = mapped_column(default=False)
    last_error: Mapped[str | None] = mapped_column(Text, default=None)
    failures: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[float] = mapped_column(default=0.0)
    check_asked_at: Mapped[float | None] = mapped_column(default=None)
    checked_at: Mapped[float | None] = mapped_column(default=None)
    labelled: Mapped[int] = mapped_column(default=0)
    ranked_left: Mapped[int] = mapped_column(default=0)
    changed: Mapped[int] = mapped_column(default=0)
    pool: Mapped[int] = mapped_column(default=0)
    left_out: Mapped[int] = mapped_column(default=0)

    @hybrid_property
    def unconfirmed(self) -> bool:
        """Only a /setup has named it so far: ``connect`` and each check write its title."""
        return self.title == ""


class Event(Base, kw_only=True):
    """Something that happened to a project; ``ids`` are those of the tasks or annotations."""

    __tablename__ = "events"
    __table_args__ = (Index("events_unhandled", "project_id", "handled"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    action: Mapped[str] = mapped_column(String(60))
    ids: Mapped[list[int]] = mapped_column(JSON)
    received_at: Mapped[float]
    handled: Mapped[bool] = mapped_column(default=False)


class Round(Base, kw_only=True):
    """A training, ranking or start round of a project; or where a version came from that was
    made elsewhere ("adopt"), which has no parts.

    Attributes:
        version: the number of the version that a training round makes, or that was adopted.
        problems: sentences, at most ``backend.ledger.rounds.MOST_PROBLEMS`` and one that counts
            the rest.
        config: the ``TrainConfig`` of a training round, as JSON text.
        manifest: the labelled tasks of a training round; None until it has collected them, and
            again when it is old.
        timings: seconds of each stage that has ended.
    """

    __tablename__ = "rounds"
    __table_args__ = (
        Index("rounds_of_project", "project_id", "id"),
        _only_one("rounds_one_active", "active"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[RoundKind] = mapped_column(String(10))
    reason: Mapped[str] = mapped_column(Text)
    stage: Mapped[Stage] = mapped_column(String(20))
    state: Mapped[RoundState] = mapped_column(String(20), default="active")
    version: Mapped[int | None] = mapped_column(default=None)
    error: Mapped[str | None] = mapped_column(Text, default=None)
    problems: Mapped[list[str]] = mapped_column(JSON, default_factory=list)
    config: Mapped[str | None] = mapped_column(NULLABLE_JSON, default=None)
    manifest: Mapped[list[ManifestEntry] | None] = mapped_column(NULLABLE_JSON, default=None)
    timings: Mapped[dict[str, float]] = mapped_column(JSON, default_factory=dict)
    started_at: Mapped[float]
    stage_started_at: Mapped[float]
    ended_at: Mapped[float | None] = mapped_column(default=None)


class Part(Base, kw_only=True):
    """One job of a round's stage.

    Attributes:
        attempts: how often a worker took it; ``deliveries`` how often it was put into Redis.
        not_before: a part that failed waits until then for its next attempt.
        token: of the lease that ``holder``, a worker, has until ``lease_until``.
        progress: 0 to 1.
    """

    __tablename__ = "parts"
    __table_args__ = (
        UniqueConstraint("round_id", "stage", "number"),
        Index("parts_by_state", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    stage: Mapped[Stage] = mapped_column(String(20))
    number: Mapped[int]
    state: Mapped[PartState] = mapped_column(String(10), default="waiting")
    payload: Mapped[Payload] = mapped_column(JSON, default_factory=NoPayload)
    result: Mapped[Result | None] = mapped_column(NULLABLE_JSON, default=None)
    attempts: Mapped[int] = mapped_column(default=0)
    deliveries: Mapped[int] = mapped_column(default=0)
    delivered_at: Mapped[float | None] = mapped_column(default=None)
    not_before: Mapped[float] = mapped_column(default=0.0)
    token: Mapped[str | None] = mapped_column(String(40), default=None)
    holder: Mapped[str | None] = mapped_column(String(200), default=None)
    lease_until: Mapped[float | None] = mapped_column(default=None)
    progress: Mapped[float] = mapped_column(default=0.0)
    started_at: Mapped[float | None] = mapped_column(default=None)
    ended_at: Mapped[float | None] = mapped_column(default=None)


class Version(Base, kw_only=True):
    """The fate of a version: promoted, kept (made but not better) or withdrawn (rolled back).

    Attributes:
        members: how many networks it has.
        classes: names by index, background first.
    """

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("project_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int]
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    state: Mapped[VersionState] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text)
    members: Mapped[int]
    classes: Mapped[list[str]] = mapped_column(JSON)
    metrics: Mapped[Metrics] = mapped_column(JSON)
    created_at: Mapped[float]


class Publication(Base, kw_only=True):
    """One ranking of the pool by one version, as Label Studio holds it under ``name``.

    Attributes:
        version: number of the version that ranked; ``NO_VERSION`` before the first.
        arm: that of the largest weight; "" where none has any.
        quantiles: uncertainty at evenly spaced places of the queue, most uncertain first.
        length: tasks in it; Label Studio has ``stored`` so many of their predictions.
        mode: what weighed the arms. None in publications of schema 0001, and so are ``weights`` and
            ``arm_quantiles``: there ``arm`` alone ranks.
        weights: arm to its weight in the uncertainty.
        arm_quantiles: weighted arm to evenly spaced quantiles of all candidates' scores, ascending.
    """

    __tablename__ = "publications"
    __table_args__ = (
        UniqueConstraint("project_id", "version", "n"),
        _only_one("publications_one_serving", "serving"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    version: Mapped[int]
    n: Mapped[int]
    name: Mapped[str] = mapped_column(String(60))
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    state: Mapped[PublicationState] = mapped_column(String(20), default="prepared")
    arm: Mapped[str] = mapped_column(String(80))
    quantiles: Mapped[list[float]] = mapped_column(JSON)
    length: Mapped[int]
    stored: Mapped[int | None] = mapped_column(default=None)
    made_at: Mapped[float]
    served_at: Mapped[float | None] = mapped_column(default=None)
    superseded_at: Mapped[float | None] = mapped_column(default=None)
    mode: Mapped[str | None] = mapped_column(String(60), default=None)
    weights: Mapped[dict[str, float] | None] = mapped_column(NULLABLE_JSON, default=None)
    arm_quantiles: Mapped[dict[str, list[float]] | None] = mapped_column(
        NULLABLE_JSON, default=None
    )


class Place(Base, kw_only=True):
    """A task's place in a publication's queue.

    Attributes:
        position: 0 is the head.
        uncertainty: the score that ranks, 0 to 1.
        arms: arm to the task's score.
        why: what put the task here: uncertainty, class, group, chance, audit, or diverse before
            the first version.
    """

    __tablename__ = "ranking"

    publication_id: Mapped[int] = mapped_column(
        ForeignKey("publications.id"), primary_key=True, init=False
    )
    task_id: Mapped[int] = mapped_column(BIG, primary_key=True)
    position: Mapped[int]
    uncertainty: Mapped[float]
    audit: Mapped[bool]
    arms: Mapped[dict[str, float]] = mapped_column(JSON)
    why: Mapped[str] = mapped_column(String(20), server_default="uncertainty")


class Evidence(Base, kw_only=True):
    """What an annotator's corrections of one task said of the measures; a task is judged once.

    Attributes:
        round_id: the round that judged it first: evidence of one round is weighed together.
        version: what judged it.
        stamp: of the annotations that it was judged by.
        rewards: measure to how well it told wrong pixels from right ones.
        scores: arm to the image's score.
        error: share of the judged pixels that were corrected; ``wrong`` of ``judged``.
        chosen_for: ``Place.why`` of the queue that asked for the task; "" where none did.
    """

    __tablename__ = "evidence"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True, init=False)
    task_id: Mapped[int] = mapped_column(BIG, primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    version: Mapped[int]
    stamp: Mapped[str] = mapped_column(String(20))
    rewards: Mapped[dict[str, float]] = mapped_column(JSON)
    scores: Mapped[dict[str, float]] = mapped_column(JSON)
    error: Mapped[float]
    wrong: Mapped[int]
    judged: Mapped[int]
    audit: Mapped[bool]
    chosen_for: Mapped[str] = mapped_column(String(20))
    judged_at: Mapped[float] = mapped_column(init=False)


class TaskStamps(Base, kw_only=True):
    """The annotations of a task that has any, as they were when Label Studio was last asked.

    Attributes:
        stamps: [annotation id, updated_at, skipped] of each, by rising id.
    """

    __tablename__ = "task_stamps"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    task_id: Mapped[int] = mapped_column(BIG, primary_key=True)
    stamps: Mapped[list[tuple[int, str, bool]]] = mapped_column(JSON)


class StampsListing(Base, kw_only=True):
    """Up to where a project's ``TaskStamps`` are known.

    Attributes:
        changed_at: the latest change of an annotated task that was seen, unix seconds by Label
            Studio's clock, 0 for none; ``seen_at`` is when that was, by ours.
        ask_from: the earliest change to ask for, by Label Studio's clock.
        listed_at: when all annotated tasks were last listed, by our clock.
        unlisted: how many annotations Label Studio counted then beyond those that it listed.
    """

    __tablename__ = "stamps_listings"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    changed_at: Mapped[float]
    seen_at: Mapped[float]
    ask_from: Mapped[float]
    listed_at: Mapped[float]
    unlisted: Mapped[int]


class PoolPicture(Base, kw_only=True):
    """A picture of a pool outside Label Studio that became a task, or is about to.

    Attributes:
        picture: a number made of its address.
        task_id: None while Label Studio is asked for the task.
    """

    __tablename__ = "pool_pictures"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    picture: Mapped[int] = mapped_column(BIG, primary_key=True)
    task_id: Mapped[int | None] = mapped_column(BIG, default=None)


class Action(Base, kw_only=True):
    """Something that a person asked for on the dashboard.

    Attributes:
        what: its name, as in ``backend.actions.named.ACTIONS``; ``version`` is what it was done to.
        who: the person, as far as we know; ``login`` is what let them in.
        outcome: what came of it, or why it was refused; None if the web ended in between.
    """

    __tablename__ = "actions"
    __table_args__ = (Index("actions_of_project", "project_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    what: Mapped[str] = mapped_column(String(40))
    version: Mapped[int | None] = mapped_column(default=None)
    who: Mapped[str] = mapped_column(String(200))
    login: Mapped[str] = mapped_column(String(200))
    at: Mapped[float]
    outcome: Mapped[str | None] = mapped_column(Text, default=None)


class StudioName(Base, kw_only=True):
    """An address that the Label Studio at ``server`` said it has; uploads go on carrying it."""

    __tablename__ = "studio_names"

    server: Mapped[str] = mapped_column(String(500), primary_key=True)
    name: Mapped[str] = mapped_column(String(500), primary_key=True)
    heard_at: Mapped[float]


class ProcessRecord(Base, kw_only=True):
    """A web or worker process that has said it is alive.

    Attributes:
        role: "web" or "worker".
        facts: what it works with, as ``backend.ledger.agreement`` gathers it.
        ahead_s: seconds that its clock was ahead of the ledger's at its last word.
    """

    __tablename__ = "processes"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    role: Mapped[str] = mapped_column(String(20))
    address: Mapped[str] = mapped_column(String(200))
    host: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    started_at: Mapped[float]
    seen_at: Mapped[float]
    facts: Mapped[dict[str, str] | None] = mapped_column(NULLABLE_JSON, default=None)
    ahead_s: Mapped[float | None] = mapped_column(default=None)
