"""Products, their stock, and reservations of it.

The checks are a floor under the code: no stock goes below zero, and no piece is lost or made.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        CREATE TABLE product (
            id              uuid PRIMARY KEY,
            name            text NOT NULL,
            price_amount    bigint NOT NULL CHECK (price_amount >= 0),
            price_currency  text NOT NULL CHECK (price_currency ~ '^[A-Z]{3}$'),
            version         bigint NOT NULL CHECK (version >= 1),
            created_at      timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute(
        """
        CREATE TABLE stock (
            product_id  uuid PRIMARY KEY REFERENCES product,
            received    bigint NOT NULL DEFAULT 0,
            free        bigint NOT NULL DEFAULT 0 CONSTRAINT stock_free CHECK (free >= 0),
            reserved    bigint NOT NULL DEFAULT 0 CONSTRAINT stock_reserved CHECK (reserved >= 0),
            sold        bigint NOT NULL DEFAULT 0 CONSTRAINT stock_sold CHECK (sold >= 0),
            CONSTRAINT stock_identity CHECK (received = free + reserved + sold)
        ) WITH (fillfactor = 70)
        """
    )
    op.execute(
        """
        CREATE TABLE reservation (
            order_id    uuid PRIMARY KEY,
            status      text NOT NULL CHECK (status IN ('held', 'sold', 'released', 'refused')),
            reason      text CHECK ((reason IS NOT NULL) = (status = 'refused')),
            made_at     timestamptz NOT NULL DEFAULT now(),
            changed_at  timestamptz NOT NULL DEFAULT now()
        ) WITH (fillfactor = 80)
        """
    )
    op.execute(
        """
        CREATE TABLE reservation_line (
            order_id    uuid NOT NULL REFERENCES reservation,
            product_id  uuid NOT NULL REFERENCES product,
            quantity    bigint NOT NULL CHECK (quantity >= 1),
            PRIMARY KEY (order_id, product_id)
        )
        """
    )


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.execute("DROP TABLE reservation_line, reservation, stock, product")
