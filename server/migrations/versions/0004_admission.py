"""what counted, what is in quarantine, and who is suspended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "admitted",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("examples", sa.Double(), nullable=False),
        sa.Column("norm", sa.Double(), nullable=True),
        sa.Column("digest", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"]),
        sa.PrimaryKeyConstraint("run", "round", "site"),
    )
    op.create_index(op.f("ix_admitted_digest"), "admitted", ["digest"], unique=False)
    op.create_table(
        "quarantine",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("file", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"]),
        sa.PrimaryKeyConstraint("task"),
    )
    op.create_index(op.f("ix_quarantine_run"), "quarantine", ["run"], unique=False)
    op.create_index(op.f("ix_quarantine_site"), "quarantine", ["site"], unique=False)
    op.create_table(
        "suspensions",
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("site"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("suspensions")
    op.drop_index(op.f("ix_quarantine_site"), table_name="quarantine")
    op.drop_index(op.f("ix_quarantine_run"), table_name="quarantine")
    op.drop_table("quarantine")
    op.drop_index(op.f("ix_admitted_digest"), table_name="admitted")
    op.drop_table("admitted")
