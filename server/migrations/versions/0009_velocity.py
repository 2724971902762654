"""the digest of a round's velocity."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Apply."""
    op.add_column("rounds", sa.Column("velocity", sa.String(), nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("rounds", schema=None) as batch_op:
        batch_op.drop_column("velocity")
