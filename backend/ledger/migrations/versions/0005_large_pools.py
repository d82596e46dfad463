"""Large pools: each task's annotations as Label Studio last told them, so that only changes are
asked for; and which pictures of a pool outside it became tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# As in 0001.
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "task_stamps",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("task_id", BIG, nullable=False),
        sa.Column("stamps", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project_id", "task_id"),
    )
    op.create_table(
        "stamps_listings",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("ask_from", sa.Float(), nullable=False),
        sa.Column("listed_at", sa.Float(), nullable=False),
        sa.Column("unlisted", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project_id"),
    )
    op.create_table(
        "pool_pictures",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("picture", BIG, nullable=False),
        sa.Column("task_id", BIG, nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project_id", "picture"),
    )
