"""The ledger's tables. Times are unix seconds (float); JSON columns hold lists and objects."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True),
    # A project's key: the server's URL and Label Studio's "<id>.<created>". An id alone comes
    # back after a database is restored or made anew.
    Column("server", String(500), nullable=False),
    Column("studio_id", Integer, nullable=False),
    Column("created", Integer, nullable=False),
    Column("slug", String(100), nullable=False, unique=True),
    Column("title", Text, nullable=False, default=""),
    Column("label_config", Text, nullable=False, default=""),
    Column("extra_params", JSON, nullable=False, default=dict),
    Column("connection", JSON),
    Column("connected", Boolean, nullable=False, default=True),
    Column("paused", Boolean, nullable=False, default=False),
    Column("last_error", Text),
    Column("failures", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("check_asked_at", Float),
    Column("checked_at", Float),
    Column("labelled", Integer, nullable=False, default=0),
    Column("ranked_left", Integer, nullable=False, default=0),
    Column("changed", Integer, nullable=False, default=0),
    # Tasks in the project when it was last ranked, and how many readable ones were left out.
    Column("pool", Integer, nullable=False, default=0),
    Column("left_out", Integer, nullable=False, default=0),
    UniqueConstraint("server", "studio_id", "created"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, ForeignKey("projects.id"), nullable=False),
    Column("action", String(60), nullable=False),
    Column("ids", JSON, nullable=False, default=list),
    Column("received_at", Float, nullable=False),
    Column("handled", Boolean, nullable=False, default=False),
    Index("events_unhandled", "project_id", "handled"),
)

rounds = Table(
    "rounds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, ForeignKey("projects.id"), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("reason", Text, nullable=False),
    Column("stage", String(20), nullable=False),
    Column("state", String(20), nullable=False),
    Column("version", Integer),
    Column("error", Text),
    Column("problems", JSON, nullable=False, default=list),
    Column("config", JSON),
    Column("manifest", JSON),
    Column("timings", JSON, nullable=False, default=dict),
    Column("started_at", Float, nullable=False),
    Column("stage_started_at", Float, nullable=False),
    Column("ended_at", Float),
    Index("rounds_of_project", "project_id", "id"),
    # One round at a time for each project, whoever starts it.
    Index(
        "rounds_one_active",
        "project_id",
        unique=True,
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
)

parts = Table(
    "parts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("round_id", Integer, ForeignKey("rounds.id"), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(10), nullable=False, default="waiting"),
    Column("payload", JSON, nullable=False, default=dict),
    Column("result", JSON),
    Column("attempts", Integer, nullable=False, default=0),
    Column("deliveries", Integer, nullable=False, default=0),
    Column("delivered_at", Float),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("token", String(40)),
    Column("holder", String(200)),
    Column("lease_until", Float),
    Column("progress", Float, nullable=False, default=0.0),
    Column("started_at", Float),
    Column("ended_at", Float),
    UniqueConstraint("round_id", "stage", "number"),
    Index("parts_by_state", "state"),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, ForeignKey("projects.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("round_id", Integer, ForeignKey("rounds.id"), nullable=False),
    # promoted, kept (made but not better), withdrawn (rolled back)
    Column("state", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("members", Integer, nullable=False),
    Column("classes", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("project_id", "number"),
)

publications = Table(
    "publications",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, ForeignKey("projects.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("n", Integer, nullable=False),
    Column("name", String(60), nullable=False),
    Column("round_id", Integer, ForeignKey("rounds.id"), nullable=False),
    # prepared, serving, superseded, failed, deleted
    Column("state", String(20), nullable=False),
    Column("arm", String(80), nullable=False),
    Column("quantiles", JSON, nullable=False),
    Column("length", Integer, nullable=False),
    Column("stored", Integer),
    Column("made_at", Float, nullable=False),
    Column("served_at", Float),
    Column("superseded_at", Float),
    # Null in what was made before there were weights: there `arm` alone ranks.
    Column("mode", String(60)),
    Column("weights", JSON(none_as_null=True)),
    Column("arm_quantiles", JSON(none_as_null=True)),
    UniqueConstraint("project_id", "version", "n"),
    Index(
        "publications_one_serving",
        "project_id",
        unique=True,
        sqlite_where=text("state = 'serving'"),
        postgresql_where=text("state = 'serving'"),
    ),
)

ranking = Table(
    "ranking",
    metadata,
    Column("publication_id", Integer, ForeignKey("publications.id"), primary_key=True),
    Column("task_id", Integer, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("doubt", Float, nullable=False),
    Column("audit", Boolean, nullable=False),
    Column("arms", JSON, nullable=False),
    # doubt, class, chance, audit, or diverse before the first version
    Column("why", String(10), nullable=False, server_default="doubt"),
)

# What a person's corrections said of the measures; a task is judged once.
evidence = Table(
    "evidence",
    metadata,
    Column("project_id", Integer, ForeignKey("projects.id"), primary_key=True),
    Column("task_id", Integer, primary_key=True),
    # Of the round that judged it first: evidence of one round is weighed together.
    Column("round_id", Integer, ForeignKey("rounds.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("stamp", String(20), nullable=False),
    Column("rewards", JSON, nullable=False),
    Column("scores", JSON, nullable=False),
    Column("error", Float, nullable=False),
    Column("wrong", Integer, nullable=False),
    Column("judged", Integer, nullable=False),
    Column("audit", Boolean, nullable=False),
    # As `ranking.why`; empty where no queue asked for it.
    Column("chosen_for", String(10), nullable=False),
    Column("judged_at", Float, nullable=False),
)

processes = Table(
    "processes",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("role", String(20), nullable=False),
    Column("address", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)
