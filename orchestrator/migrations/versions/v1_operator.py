"""What the operator has said."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, Text

revision = "1"
down_revision = None


def upgrade(op: Operations) -> None:
    """Makes the table."""
    op.create_table(
        "operator_words",
        Column("word", Text, primary_key=True),
        Column("said_ms", BigInteger, nullable=False),
    )
