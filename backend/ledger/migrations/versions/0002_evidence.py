"""Evidence for the measures; what a publication weighed, and why each task stands in it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# As in 0001.
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("task_id", BIG, nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("stamp", sa.String(length=20), nullable=False),
        sa.Column("rewards", sa.JSON(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("error", sa.Float(), nullable=False),
        sa.Column("wrong", sa.Integer(), nullable=False),
        sa.Column("judged", sa.Integer(), nullable=False),
        sa.Column("audit", sa.Boolean(), nullable=False),
        sa.Column("chosen_for", sa.String(length=10), nullable=False),
        sa.Column("judged_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
        ),
        sa.ForeignKeyConstraint(
            ["round_id"],
            ["rounds.id"],
        ),
        sa.PrimaryKeyConstraint("project_id", "task_id"),
    )
    op.add_column("publications", sa.Column("mode", sa.String(length=60), nullable=True))
    op.add_column("publications", sa.Column("weights", sa.JSON(), nullable=True))
    op.add_column("publications", sa.Column("arm_quantiles", sa.JSON(), nullable=True))
    op.add_column(
        "ranking",
        sa.Column("why", sa.String(length=10), nullable=False, server_default="doubt"),
    )
    op.execute("UPDATE ranking SET why = 'audit' WHERE audit")
