"""The field's word for what 0.1.0 called doubt."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("ranking") as ranking:
        ranking.alter_column("doubt", new_column_name="uncertainty", existing_type=sa.Float())
        # "uncertainty" has one character more than the column had room for.
        ranking.alter_column(
            "why",
            type_=sa.String(length=20),
            existing_type=sa.String(length=10),
            existing_nullable=False,
            server_default="uncertainty",
        )
    with op.batch_alter_table("evidence") as evidence:
        evidence.alter_column(
            "chosen_for",
            type_=sa.String(length=20),
            existing_type=sa.String(length=10),
            existing_nullable=False,
        )
    op.execute("UPDATE ranking SET why = 'uncertainty' WHERE why = 'doubt'")
    op.execute("UPDATE evidence SET chosen_for = 'uncertainty' WHERE chosen_for = 'doubt'")
