"""Payments, and what was asked of the provider for each."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        CREATE TABLE payment (
            id          uuid PRIMARY KEY,
            order_id    uuid NOT NULL UNIQUE,
            amount      bigint NOT NULL CHECK (amount >= 0),
            currency    text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
            status      text NOT NULL CHECK (status IN ('authorizing', 'authorized', 'declined', 'capturing',
                            'captured', 'voiding', 'voided', 'refunding', 'refunded')),
            authorized  bigint NOT NULL CHECK (authorized >= 0),
            captured    bigint NOT NULL CONSTRAINT payment_captured CHECK (captured BETWEEN 0 AND authorized),
            voided      bigint NOT NULL CONSTRAINT payment_voided CHECK (voided BETWEEN 0 AND authorized - captured),
            refunded    bigint NOT NULL CONSTRAINT payment_refunded CHECK (refunded BETWEEN 0 AND captured),
            reason      text,
            created_at  timestamptz NOT NULL DEFAULT now(),
            changed_at  timestamptz NOT NULL DEFAULT now()
        ) WITH (fillfactor = 70)
        """
    )
    # An intent is a row without an answer. The provider is asked after it is committed, and never without it.
    op.execute(
        """
        CREATE TABLE operation (
            payment_id  uuid NOT NULL REFERENCES payment,
            what        text NOT NULL CHECK (what IN ('authorize', 'capture', 'void', 'refund')),
            asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
            answered_at timestamptz,
            answer      text,
            PRIMARY KEY (payment_id, what)
        ) WITH (fillfactor = 80)
        """
    )


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.execute("DROP TABLE operation, payment")
