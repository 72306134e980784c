"""Orders with their lines, and the read model of inventory's products."""

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
            price_amount    bigint NOT NULL,
            price_currency  text NOT NULL,
            version         bigint NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE orders (
            id              uuid PRIMARY KEY,
            user_id         uuid NOT NULL,
            saga_id         uuid NOT NULL UNIQUE,
            status          text NOT NULL CHECK (status IN ('pending', 'confirmed', 'rejected', 'cancelled')),
            reason          text CHECK ((reason IS NOT NULL) = (status IN ('rejected', 'cancelled'))),
            cancelling      text,
            total_amount    bigint NOT NULL CHECK (total_amount >= 0),
            total_currency  text NOT NULL,
            placed_at       timestamptz NOT NULL DEFAULT now(),
            cancelling_at   timestamptz,
            settled_at      timestamptz CHECK ((settled_at IS NULL) = (status = 'pending'))
        ) WITH (fillfactor = 80)
        """
    )
    op.execute(
        """
        CREATE TABLE order_line (
            order_id    uuid NOT NULL REFERENCES orders,
            n           smallint NOT NULL,
            product_id  uuid NOT NULL,
            quantity    bigint NOT NULL CHECK (quantity >= 1),
            unit_price  bigint NOT NULL CHECK (unit_price >= 0),
            PRIMARY KEY (order_id, n)
        )
        """
    )


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.execute("DROP TABLE order_line, orders, product")
