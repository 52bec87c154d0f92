"""Jobs and attempts, as journals without a version have them."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, Integer, Text

revision = "1"
down_revision = None


def upgrade(op: Operations) -> None:
    """Makes both tables."""
    op.create_table(
        "jobs",
        Column("id", Text, primary_key=True),
        Column("pipeline", Text, nullable=False),
        Column("model", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("created_ms", BigInteger, nullable=False),
        Column("updated_ms", BigInteger, nullable=False),
        Column("finished_ms", BigInteger),
        Column("deadline_ms", BigInteger, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("node_id", Text),
        Column("failure_class", Text),
        Column("failure_code", Text),
        Column("failure_message", Text),
        Column("pixel_steps", BigInteger, nullable=False),
        Column("output_pixels", BigInteger, nullable=False),
        Column("charged_nano", BigInteger, nullable=False),
        Column("owed_nano", BigInteger, nullable=False),
    )
    op.create_table(
        "attempts",
        Column("job_id", Text, primary_key=True),
        Column("attempt", Integer, primary_key=True, autoincrement=False),
        Column("node_id", Text, nullable=False),
        Column("started_ms", BigInteger, nullable=False),
        Column("ended_ms", BigInteger, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("owed_nano", BigInteger, nullable=False),
    )
