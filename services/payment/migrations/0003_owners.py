"""Whose a payment is. Nullable: replicas of the version before write payments and say of none whose it is."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Invoices and refunds are their payment's, and so their owner's."""
    op.execute("ALTER TABLE payment ADD COLUMN user_id uuid")


def downgrade() -> None:
    """Drop the column with all that is in it."""
    op.execute("ALTER TABLE payment DROP COLUMN user_id")
