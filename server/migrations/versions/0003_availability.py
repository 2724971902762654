"""whether a site may work now, by its own schedule."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.add_column(sa.Column("unavailable", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("back", sa.DateTime(), nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.drop_column("back")
        batch_op.drop_column("unavailable")
