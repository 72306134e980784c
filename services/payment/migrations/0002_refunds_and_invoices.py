"""Refunds in parts, and invoices and credit notes, also for what was captured and refunded before."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and fill them with what has happened. Payments and notes are one to one until now."""
    op.execute(
        """
        ALTER TABLE payment ADD COLUMN refunding bigint NOT NULL DEFAULT 0,
            ADD CONSTRAINT payment_refunding CHECK (refunding BETWEEN 0 AND captured - refunded)
        """
    )
    # An intent is a row without an answer, as in `operation`; of refunds there may be several for each payment.
    op.execute(
        """
        CREATE TABLE refund (
            id          uuid PRIMARY KEY,
            payment_id  uuid NOT NULL REFERENCES payment,
            amount      bigint NOT NULL CHECK (amount >= 0),
            status      text NOT NULL CHECK (status IN ('asked', 'done', 'declined')),
            reason      text,
            asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
            answered_at timestamptz CHECK ((answered_at IS NULL) = (status = 'asked'))
        ) WITH (fillfactor = 80)
        """
    )
    op.execute("CREATE INDEX ON refund (payment_id)")
    op.execute(
        """
        CREATE TABLE invoice (
            id          uuid PRIMARY KEY,
            payment_id  uuid NOT NULL UNIQUE REFERENCES payment,
            order_id    uuid NOT NULL UNIQUE,
            amount      bigint NOT NULL CHECK (amount >= 0),
            currency    text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
            issued_at   timestamptz NOT NULL DEFAULT clock_timestamp()
        )
        """
    )
    op.execute(
        """
        CREATE TABLE credit_note (
            id          uuid PRIMARY KEY,
            invoice_id  uuid NOT NULL REFERENCES invoice,
            refund_id   uuid NOT NULL UNIQUE REFERENCES refund,
            amount      bigint NOT NULL CHECK (amount >= 0),
            issued_at   timestamptz NOT NULL DEFAULT clock_timestamp()
        )
        """
    )
    op.execute("CREATE INDEX ON credit_note (invoice_id)")
    # A payment's id serves as the id of what belongs to it: it is unique there, too, and as well made.
    op.execute(
        """
        INSERT INTO invoice (id, payment_id, order_id, amount, currency)
        SELECT id, id, order_id, captured, currency FROM payment WHERE captured > 0
        """
    )
    op.execute(
        """
        INSERT INTO refund (id, payment_id, amount, status, answered_at)
        SELECT id, id, refunded, 'done', changed_at FROM payment WHERE refunded > 0
        """
    )
    op.execute("INSERT INTO credit_note (id, invoice_id, refund_id, amount) SELECT id, id, id, amount FROM refund")


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.execute("DROP TABLE credit_note, invoice, refund")
    op.execute("ALTER TABLE payment DROP COLUMN refunding")
