"""how far the writers of figures have come with each run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "writers",
        sa.Column("run", sa.String(), sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("writer", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run", "writer"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("writers")
