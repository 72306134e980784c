"""A function for one message, which is what most transactions publish: nothing of it is a set."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it. It needs no planner settings: there is one way to insert a row."""
    op.execute(
        """
        CREATE FUNCTION covey.publish_one(
            p_id uuid, p_stream text, p_kind text, p_type text, p_key text,
            p_time timestamptz, p_headers jsonb, p_body bytea
        ) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
        DECLARE
            drawn bigint;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtextextended(p_key, 0));
            INSERT INTO covey.outbox (id, stream, kind, type, key, time, headers, body)
            VALUES (p_id, p_stream, p_kind, p_type, p_key, p_time, covey.with_deadline(p_headers), p_body)
            RETURNING position INTO drawn;
            INSERT INTO covey.outbox_pending VALUES (drawn, p_stream);
        END $$
        """
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP FUNCTION covey.publish_one")
