"""what an operator wishes of a run: pause, stop."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Apply."""
    # not in a batch, which may make the table anew and would break what refers to its rows
    op.add_column("runs", sa.Column("wish", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_column("wish")
