"""The table of this service. covey's own tables have a history of their own."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create it."""
    op.execute("CREATE TABLE vote (choice text NOT NULL)")


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE vote")
