"""The orders of a user, newest or oldest first: their ids are in the order of time."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.execute("CREATE INDEX orders_of_user ON orders (user_id, id)")


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP INDEX orders_of_user")
