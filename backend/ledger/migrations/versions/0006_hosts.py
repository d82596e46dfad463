"""What each process works with, for hosts that should agree; the names of Label Studio."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("processes", sa.Column("facts", sa.JSON(), nullable=True))
    op.add_column("processes", sa.Column("ahead_s", sa.Float(), nullable=True))
    op.create_table(
        "studio_names",
        sa.Column("server", sa.String(length=500), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("heard_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("server", "name"),
    )
