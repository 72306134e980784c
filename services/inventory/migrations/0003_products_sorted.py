"""Products by name and by price, page by page."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes. Names are compared as bytes, in any locale of the server alike."""
    op.execute('ALTER TABLE product ALTER COLUMN name TYPE text COLLATE "C"')
    op.execute("CREATE INDEX product_by_name ON product (name, id)")
    op.execute("CREATE INDEX product_by_price ON product (price_amount, id)")


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP INDEX product_by_name, product_by_price")
    op.execute('ALTER TABLE product ALTER COLUMN name TYPE text COLLATE "default"')
