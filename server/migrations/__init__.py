"""Database migrations (alembic), applied whenever a server opens its database."""
