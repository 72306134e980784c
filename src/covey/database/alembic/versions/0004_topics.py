"""What a stream was read for, and what a process handles: versions that differ in both run beside each other.

A position in a stream says nothing of what its reader has not asked for, so it is kept for each topic.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = """
-- The topics that `sequence` is moved for, in order, with spaces between; and how far others were read, each by itself.
-- What is in neither was never read.
ALTER TABLE covey.ingest ADD COLUMN topics text NOT NULL DEFAULT '', ADD COLUMN others jsonb NOT NULL DEFAULT '{}';

-- The types that a process handles. NULL: it does not say.
ALTER TABLE covey.process ADD COLUMN handles text[];

-- The types that a process handled which has died: it, or another one like it, may soon be back.
CREATE TABLE covey.handled_lately (type text PRIMARY KEY, until timestamptz NOT NULL);
"""
# The functions that move a position keep their arguments, since those of the version before are called beside those of
# this one. So a session says for which topics it reads, and whoever moves the position for others is seen to here.
MOVED = """
CREATE FUNCTION covey.ingest_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('covey.topics', true), '') <> '' THEN
        RAISE EXCEPTION 'covey: fenced, the stream % is read for other topics now', NEW.stream USING ERRCODE = 'CV001';
    ELSIF NEW.sequence > OLD.sequence THEN
        -- A reader that does not say what it reads: of what was read so far it may have left out anything.
        NEW.others := OLD.others || coalesce((SELECT jsonb_object_agg(topic, OLD.sequence)
                                              FROM unnest(string_to_array(OLD.topics, ' ')) AS topic), '{}');
        NEW.topics := '';
    ELSE
        -- An operator, who has everything read again from here.
        NEW.others := coalesce((SELECT jsonb_object_agg(topic, least(upto::bigint, NEW.sequence))
                                FROM jsonb_each_text(OLD.others) AS other (topic, upto)), '{}');
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER moved BEFORE UPDATE OF sequence ON covey.ingest FOR EACH ROW
    WHEN (NEW.topics = '' OR coalesce(current_setting('covey.topics', true), '') <> NEW.topics)
    EXECUTE FUNCTION covey.ingest_moved();
"""
DIED = """
-- Say that a process ends in order: nobody is to wait for it.
CREATE FUNCTION covey.leave(p_owner int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE covey.process SET handles = '{}' WHERE owner = p_owner;
    DELETE FROM covey.process WHERE owner = p_owner;
END $$;

CREATE FUNCTION covey.process_died() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO covey.handled_lately
    SELECT DISTINCT type, clock_timestamp() + interval '1 minute' FROM unnest(OLD.handles) AS type ORDER BY type
    ON CONFLICT (type) DO UPDATE SET until = excluded.until;
    RETURN NULL;
END $$;

CREATE TRIGGER died AFTER DELETE ON covey.process FOR EACH ROW
    WHEN (OLD.handles <> '{}') EXECUTE FUNCTION covey.process_died();
"""


def upgrade() -> None:
    """Add them. Of positions that are there nobody knows what for: their streams are read again, once."""
    op.execute(TABLES)
    op.execute(MOVED)
    op.execute(DIED)


def downgrade() -> None:
    """Take them away."""
    op.execute("DROP TRIGGER moved ON covey.ingest")
    op.execute("DROP FUNCTION covey.ingest_moved")
    op.execute("DROP TRIGGER died ON covey.process")
    op.execute("DROP FUNCTION covey.process_died, covey.leave")
    op.execute("DROP TABLE covey.handled_lately")
    op.execute("ALTER TABLE covey.process DROP COLUMN handles")
    op.execute("ALTER TABLE covey.ingest DROP COLUMN topics, DROP COLUMN others")
