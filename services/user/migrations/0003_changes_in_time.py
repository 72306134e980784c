"""When an account was last changed. A trigger says so: replicas of the version before change accounts beside us."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and what keeps it true. Of a change before it nobody knows when that was: then it is now."""
    op.execute("ALTER TABLE account ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now()")
    op.execute(
        """
        CREATE FUNCTION account_was_updated() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.updated_at := now();
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER account_updated BEFORE UPDATE ON account FOR EACH ROW
        WHEN (NEW.version IS DISTINCT FROM OLD.version)
        EXECUTE FUNCTION account_was_updated()
        """
    )


def downgrade() -> None:
    """Drop both."""
    op.execute("DROP TRIGGER account_updated ON account")
    op.execute("DROP FUNCTION account_was_updated")
    op.execute("ALTER TABLE account DROP COLUMN updated_at")
