"""Shipments, and returns of what was shipped."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        CREATE TABLE shipment (
            id              uuid PRIMARY KEY,
            order_id        uuid NOT NULL UNIQUE,
            user_id         uuid NOT NULL,
            progress        text NOT NULL CHECK (progress IN ('booking', 'booked', 'in_transit', 'delivered')),
            tracking_number text CHECK ((tracking_number IS NULL) = (progress = 'booking')),
            returned        boolean NOT NULL DEFAULT false,
            version         bigint NOT NULL DEFAULT 0,
            asked_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
            changed_at      timestamptz NOT NULL DEFAULT clock_timestamp()
        ) WITH (fillfactor = 80)
        """
    )
    op.execute(
        """
        CREATE TABLE shipment_line (
            shipment_id uuid NOT NULL REFERENCES shipment,
            product_id  uuid NOT NULL,
            quantity    bigint NOT NULL CHECK (quantity >= 1),
            PRIMARY KEY (shipment_id, product_id)
        )
        """
    )
    # Its id is that of the saga that asks for it. It may be cancelled for an order that was never shipped (a
    # tombstone), so there need be no shipment.
    op.execute(
        """
        CREATE TABLE goods_return (
            id              uuid PRIMARY KEY,
            order_id        uuid NOT NULL,
            status          text NOT NULL CHECK (status IN ('receiving', 'received', 'refused', 'cancelling',
                                'cancelled')),
            tracking_number text,
            reason          text CHECK ((reason IS NOT NULL) = (status = 'refused')),
            asked_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
            changed_at      timestamptz NOT NULL DEFAULT clock_timestamp()
        ) WITH (fillfactor = 80)
        """
    )
    op.execute("CREATE INDEX ON goods_return (order_id)")
    op.execute(
        """
        CREATE TABLE goods_return_line (
            return_id   uuid NOT NULL REFERENCES goods_return,
            product_id  uuid NOT NULL,
            quantity    bigint NOT NULL CHECK (quantity >= 1),
            PRIMARY KEY (return_id, product_id)
        )
        """
    )


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.execute("DROP TABLE goods_return_line, goods_return, shipment_line, shipment")
