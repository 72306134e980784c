"""Returns of what was ordered, and the read model of shipping's shipments.

`returned` counts the pieces of a line that are back or on their way back. Its check is a floor under the code: no more
comes back than was ordered.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        ALTER TABLE order_line ADD COLUMN returned bigint NOT NULL DEFAULT 0
            CONSTRAINT order_line_returned CHECK (returned BETWEEN 0 AND quantity)
        """
    )
    op.execute(
        """
        CREATE TABLE order_return (
            id              uuid PRIMARY KEY,
            order_id        uuid NOT NULL REFERENCES orders,
            status          text NOT NULL CHECK (status IN ('requested', 'completed', 'refused')),
            reason          text NOT NULL,
            refusal         text CHECK ((refusal IS NOT NULL) = (status = 'refused')),
            amount          bigint NOT NULL CHECK (amount >= 0),
            currency        text NOT NULL,
            requested_at    timestamptz NOT NULL DEFAULT now(),
            settled_at      timestamptz CHECK ((settled_at IS NULL) = (status = 'requested'))
        ) WITH (fillfactor = 80)
        """
    )
    op.execute("CREATE INDEX ON order_return (order_id)")
    op.execute(
        """
        CREATE TABLE order_return_line (
            return_id   uuid NOT NULL REFERENCES order_return,
            product_id  uuid NOT NULL,
            quantity    bigint NOT NULL CHECK (quantity >= 1),
            PRIMARY KEY (return_id, product_id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE shipment (
            order_id        uuid PRIMARY KEY,
            shipment_id     uuid NOT NULL,
            status          text NOT NULL,
            tracking_number text,
            version         bigint NOT NULL,
            shipped_at      timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.execute("DROP TABLE shipment, order_return_line, order_return")
    op.execute("ALTER TABLE order_line DROP COLUMN returned")
