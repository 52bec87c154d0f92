"""Whose a job is, and what its node worked on it."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, Text

revision = "2"
down_revision = "1"


def upgrade(op: Operations) -> None:
    """Adds both to jobs; of older ones neither is known."""
    op.add_column("jobs", Column("key_id", Text))
    op.add_column("jobs", Column("run_ms", BigInteger))
    op.create_index("jobs_by_key", "jobs", ["key_id", "created_ms"])
