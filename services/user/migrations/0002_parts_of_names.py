"""What of a name is given and what is of the family, and a search by how a name begins.

Replicas of the version before know no parts. They may rename somebody or close an account beside us; parts of another
name, or of nobody, would stay. So the parts say which name they are of, and go with it, whoever changes it.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, what keeps them true, and the indexes."""
    op.execute(
        """
        ALTER TABLE account ADD COLUMN given_name text, ADD COLUMN family_name text, ADD COLUMN parts_of text,
            ADD CONSTRAINT account_parts CHECK (
                parts_of IS NULL AND num_nonnulls(given_name, family_name) = 0 OR parts_of = name)
        """
    )
    op.execute(
        """
        CREATE FUNCTION account_parts_go_with_the_name() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.given_name := NULL;
            NEW.family_name := NULL;
            NEW.parts_of := NULL;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER account_parts BEFORE UPDATE ON account FOR EACH ROW
        WHEN (NEW.parts_of IS NOT NULL AND NEW.parts_of IS DISTINCT FROM NEW.name)
        EXECUTE FUNCTION account_parts_go_with_the_name()
        """
    )
    # This collation sorts by code points, as a search for a beginning needs it, and folds letters beyond ASCII.
    op.execute('CREATE INDEX account_search ON account (lower(name COLLATE "pg_c_utf8"))')
    op.execute("CREATE INDEX account_name ON account (name)")


def downgrade() -> None:
    """Drop it all, with the parts of the names."""
    op.execute("DROP INDEX account_name, account_search")
    op.execute("DROP TRIGGER account_parts ON account")
    op.execute("DROP FUNCTION account_parts_go_with_the_name")
    op.execute("ALTER TABLE account DROP COLUMN given_name, DROP COLUMN family_name, DROP COLUMN parts_of")
