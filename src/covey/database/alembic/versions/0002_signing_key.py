"""What a service signs the cursors of its lists with: in its database, so that all replicas have the same."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the key. Two random UUIDs are 244 bits of `pg_strong_random`."""
    op.execute(
        """
        CREATE TABLE covey.signing_key (
            key  bytea NOT NULL CHECK (length(key) >= 32),
            one  boolean PRIMARY KEY DEFAULT true CHECK (one)
        );
        INSERT INTO covey.signing_key (key)
        VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
        """
    )


def downgrade() -> None:
    """Drop the key: cursors that were given out are refused."""
    op.execute("DROP TABLE covey.signing_key")
