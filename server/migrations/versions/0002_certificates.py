"""certificates, revocation, and an audit trail that says who and how often."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("issued", sa.DateTime(), nullable=False),
        sa.Column("expires", sa.DateTime(), nullable=False),
        sa.Column("authority", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("pem", sa.LargeBinary(), nullable=False),
        sa.Column("used", sa.DateTime(), nullable=True),
        sa.Column("revoked", sa.DateTime(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("serial"),
    )
    with op.batch_alter_table("certificates", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_certificates_site"), ["site"], unique=False)
        batch_op.create_index(batch_op.f("ix_certificates_token"), ["token"], unique=False)
        batch_op.create_index(batch_op.f("ix_certificates_revoked"), ["revoked"], unique=False)
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.add_column(sa.Column("revoked", sa.DateTime(), nullable=True))
        batch_op.add_column(sa.Column("reason", sa.String(), nullable=False, server_default=""))
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.add_column(sa.Column("key", sa.String(), nullable=True))
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.add_column(sa.Column("actor", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("times", sa.Integer(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("until", sa.DateTime(), nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_column("until")
        batch_op.drop_column("times")
        batch_op.drop_column("actor")
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.drop_column("key")
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.drop_column("reason")
        batch_op.drop_column("revoked")
    with op.batch_alter_table("certificates", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_certificates_revoked"))
        batch_op.drop_index(batch_op.f("ix_certificates_token"))
        batch_op.drop_index(batch_op.f("ix_certificates_site"))
    op.drop_table("certificates")
