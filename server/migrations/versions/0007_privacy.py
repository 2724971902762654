"""what a run has cost in privacy."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Apply."""
    # not in a batch, which may make the table anew and would break what refers to its rows
    op.add_column("runs", sa.Column("privacy", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_column("privacy")
