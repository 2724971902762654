"""Alembic's entry: migrates over the connection that `fedwon.server.store` hands in."""

from __future__ import annotations

from alembic import context

from fedwon.server.store import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
