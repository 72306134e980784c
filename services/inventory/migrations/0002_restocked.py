"""Pieces that were sold and came back. The checks are a floor: no more comes back than was sold."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        ALTER TABLE reservation_line ADD COLUMN restocked bigint NOT NULL DEFAULT 0
            CONSTRAINT reservation_line_restocked CHECK (restocked BETWEEN 0 AND quantity)
        """
    )
    op.execute(
        """
        CREATE TABLE restock (
            return_id   uuid PRIMARY KEY,
            order_id    uuid NOT NULL,
            made_at     timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute("CREATE INDEX ON restock (order_id)")
    op.execute(
        """
        CREATE TABLE restock_line (
            return_id   uuid NOT NULL REFERENCES restock,
            product_id  uuid NOT NULL REFERENCES product,
            quantity    bigint NOT NULL CHECK (quantity >= 1),
            PRIMARY KEY (return_id, product_id)
        )
        """
    )


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.execute("DROP TABLE restock_line, restock")
    op.execute("ALTER TABLE reservation_line DROP COLUMN restocked")
