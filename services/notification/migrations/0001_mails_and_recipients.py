"""Mails, and the read model of user's accounts."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    # Without an address the account is closed: a tombstone, which an older event that comes late does not replace.
    op.execute(
        """
        CREATE TABLE recipient (
            id                uuid PRIMARY KEY,
            version           bigint NOT NULL,
            address           text,
            locale            text NOT NULL,
            wants_order_mail  boolean NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE mail (
            id              uuid PRIMARY KEY,
            order_id        uuid NOT NULL,
            user_id         uuid NOT NULL,
            total_amount    bigint NOT NULL,
            total_currency  text NOT NULL,
            status          text NOT NULL CHECK (status IN ('waiting', 'sending', 'sent', 'refused', 'skipped')),
            reason          text CHECK ((reason IS NOT NULL) = (status IN ('refused', 'skipped'))),
            attempts        integer NOT NULL DEFAULT 0,
            asked_at        timestamptz NOT NULL DEFAULT now(),
            settled_at      timestamptz CHECK ((settled_at IS NULL) = (status IN ('waiting', 'sending')))
        ) WITH (fillfactor = 80)
        """
    )
    op.execute("CREATE INDEX mail_order ON mail (order_id, asked_at)")
    op.execute("CREATE INDEX mail_user ON mail (user_id, asked_at)")


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.execute("DROP TABLE mail, recipient")
