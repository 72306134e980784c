"""The queues of a service: outbox, inbox, holds, replies, sagas, idempotency.

Why the functions: each is one round trip that would be two or three, and each carries planner settings,
because a plan made while a queue is empty (sequential scan, hash join) is kept while it is full and costs
four times the throughput (docs/decisions/0002); and because PostgreSQL, left to itself, plans most of them anew at
each call, which takes longer than running them. They are VOLATILE, so that every statement inside sees what
was committed before it began; `take` depends on that.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PLANNER = """
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
"""

OUTBOX = """
CREATE TABLE covey.outbox (
    position    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          uuid NOT NULL,
    stream      text NOT NULL,
    kind        text NOT NULL,
    type        text NOT NULL,
    key         text NOT NULL,
    time        timestamptz NOT NULL,
    headers     jsonb NOT NULL,
    body        bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outbox_key ON covey.outbox (key);
CREATE INDEX outbox_age ON covey.outbox USING brin (created_at);

CREATE TABLE covey.outbox_pending (position bigint PRIMARY KEY, stream text NOT NULL);

-- A header `within`, in seconds, becomes the header `deadline` by this clock: no process's own may decide it (H10).
CREATE FUNCTION covey.with_deadline(headers jsonb) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN headers ? 'within' THEN headers - 'within' || jsonb_build_object('deadline',
        clock_timestamp() + make_interval(secs => (headers ->> 'within')::float8)) ELSE headers END
$$;

-- Insert messages under a lock per key. A position is drawn under the lock and the lock is released after the
-- commit is visible, so among messages of one key the order of positions is the order of commits (H1).
-- The locks are taken in order of their number, so that two transactions cannot wait for each other.
CREATE FUNCTION covey.publish(
    p_ids uuid[], p_streams text[], p_kinds text[], p_types text[], p_keys text[],
    p_times timestamptz[], p_headers jsonb[], p_bodies bytea[]
) RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(lock)
    FROM (SELECT DISTINCT hashtextextended(key, 0) AS lock FROM unnest(p_keys) AS key ORDER BY 1) AS locks;

    WITH stored AS (
        INSERT INTO covey.outbox (id, stream, kind, type, key, time, headers, body)
        SELECT u.id, u.stream, u.kind, u.type, u.key, u.time, covey.with_deadline(u.headers), u.body
        FROM unnest(p_ids, p_streams, p_kinds, p_types, p_keys, p_times, p_headers, p_bodies)
             WITH ORDINALITY AS u (id, stream, kind, type, key, time, headers, body, n)
        ORDER BY u.n
        RETURNING position, stream
    )
    INSERT INTO covey.outbox_pending SELECT position, stream FROM stored;
END $$;

-- Mark what was published and return what comes next, except of streams that cannot be published to now: one round
-- trip, committed at once.
CREATE FUNCTION covey.relay(p_published bigint[], p_limit int, p_except text[])
RETURNS SETOF covey.outbox LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    DELETE FROM covey.outbox_pending WHERE position = ANY (p_published);
    RETURN QUERY SELECT o.* FROM covey.outbox_pending p JOIN covey.outbox o USING (position)
                 WHERE p.stream <> ALL (p_except) ORDER BY p.position LIMIT p_limit;
END $$;
"""

INBOX = """
-- How far each stream has been stored. The row moves in the transaction that stores, and only from where its
-- writer believes it to be: a writer that was overtaken changes nothing (H9). The incarnation says in which of the
-- streams that have had this name.
CREATE TABLE covey.ingest (
    stream      text PRIMARY KEY,
    sequence    bigint NOT NULL,
    incarnation text NOT NULL DEFAULT ''
);

CREATE TABLE covey.inbox (
    position    bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id          uuid PRIMARY KEY,
    stream      text NOT NULL,
    kind        text NOT NULL,
    type        text NOT NULL,
    key         text NOT NULL,
    source      text NOT NULL,
    time        timestamptz NOT NULL,
    headers     jsonb NOT NULL,
    body        bytea NOT NULL,
    command_id  uuid,
    deadline    timestamptz,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_key ON covey.inbox (key);

-- Ready to be handled. The lane (a hash of the key) is what workers lock: one worker has all messages of a key.
CREATE TABLE covey.inbox_pending (
    lane smallint NOT NULL, position bigint NOT NULL, key text NOT NULL, PRIMARY KEY (lane, position)
);

-- A key that does not move: retried after `until`, worked on outside (until then), or dead.
CREATE TABLE covey.hold (
    key         text PRIMARY KEY,
    lane        smallint NOT NULL,
    state       text NOT NULL CHECK (state IN ('waiting', 'working', 'dead')),
    until       timestamptz NOT NULL,
    attempts    int NOT NULL,
    crashes     int NOT NULL DEFAULT 0,
    token       uuid,
    owner       int,
    position    bigint NOT NULL,
    error       text,
    since       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX hold_due ON covey.hold (until);
CREATE INDEX hold_dead ON covey.hold (since, key) WHERE state = 'dead';
CREATE INDEX hold_working ON covey.hold (owner) WHERE state = 'working';
CREATE INDEX hold_suspect ON covey.hold (until) WHERE crashes >= 2;

-- The processes of this service; a row whose lock nobody holds is of one that has died.
CREATE TABLE covey.process (owner int PRIMARY KEY, since timestamptz NOT NULL DEFAULT now());

-- What may have been in a turn when a process died, and in how many deaths on end.
CREATE TABLE covey.suspect (
    position    bigint PRIMARY KEY,
    lane        smallint NOT NULL,
    key         text NOT NULL,
    deaths      int NOT NULL DEFAULT 1,
    at          timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE covey.inbox_held (key text NOT NULL, position bigint NOT NULL, PRIMARY KEY (key, position));

-- The answers given to commands, so that a command sent again gets the same answer and no second effect.
CREATE TABLE covey.reply (
    command_id  uuid PRIMARY KEY,
    stream      text NOT NULL,
    key         text NOT NULL,
    body        bytea NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX reply_age ON covey.reply (at);

CREATE FUNCTION covey.keep_replies(p_command_ids uuid[], p_streams text[], p_keys text[], p_bodies bytea[])
RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    INSERT INTO covey.reply (command_id, stream, key, body)
    SELECT * FROM unnest(p_command_ids, p_streams, p_keys, p_bodies);
END $$;

-- What was done about messages that could not be handled, and when; retention of the inbox leaves it.
CREATE TABLE covey.dead_letter_log (
    n           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position    bigint NOT NULL,
    message_id  uuid NOT NULL,
    key         text NOT NULL,
    what        text NOT NULL CHECK (what IN ('parked', 'edited', 'replayed', 'discarded', 'expired')),
    reason      text,
    old_body    bytea,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX dead_letter_position ON covey.dead_letter_log (position);

CREATE FUNCTION covey.lane(p_key text) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT (hashtext(p_key) & 63)::smallint $$;

-- Put messages into the inbox; those it knows are dropped. Returns how many were new.
CREATE FUNCTION covey.enqueue(
    p_ids uuid[], p_streams text[], p_kinds text[], p_types text[], p_keys text[], p_sources text[],
    p_times timestamptz[], p_headers jsonb[], p_bodies bytea[], p_command_ids uuid[], p_deadlines timestamptz[]
) RETURNS int LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    stored int;
BEGIN
    WITH new AS (
        INSERT INTO covey.inbox (id, stream, kind, type, key, source, time, headers, body, command_id, deadline)
        SELECT u.id, u.stream, u.kind, u.type, u.key, u.source, u.time, u.headers, u.body, u.command_id, u.deadline
        FROM unnest(p_ids, p_streams, p_kinds, p_types, p_keys, p_sources, p_times, p_headers, p_bodies,
                    p_command_ids, p_deadlines)
             WITH ORDINALITY AS u (id, stream, kind, type, key, source, time, headers, body, command_id, deadline, n)
        ORDER BY u.n
        ON CONFLICT (id) DO NOTHING
        RETURNING position, key
    )
    INSERT INTO covey.inbox_pending SELECT covey.lane(key), position, key FROM new;
    GET DIAGNOSTICS stored = ROW_COUNT;
    RETURN stored;
END $$;

-- Store what was read from a stream, together with the reader's position, which fences a reader that was overtaken.
-- Of the first `p_direct` new messages, return those that the caller is to handle in this very transaction, because
-- nobody holds their lane and nothing waits in it, nor behind a hold of their key. They never enter the queue; all
-- others do. A lane's lock is taken before the statement that looks what waits in the lane, which so sees what the
-- lock's previous holder committed. Messages that are known are dropped.
CREATE FUNCTION covey.receive(
    p_class int, p_direct int, p_stream text, p_after bigint, p_upto bigint,
    p_ids uuid[], p_streams text[], p_kinds text[], p_types text[], p_keys text[], p_sources text[],
    p_times timestamptz[], p_headers jsonb[], p_bodies bytea[], p_command_ids uuid[], p_deadlines timestamptz[]
) RETURNS TABLE (o_id uuid, o_position bigint, o_expired boolean, o_answer bytea)
LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    mine smallint[];
BEGIN
    UPDATE covey.ingest SET sequence = p_upto WHERE stream = p_stream AND sequence = p_after;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'covey: fenced, another reader is ahead in the stream %', p_stream USING ERRCODE = 'CV001';
    END IF;
    IF p_direct = 0 THEN
        PERFORM covey.enqueue(p_ids, p_streams, p_kinds, p_types, p_keys, p_sources, p_times, p_headers, p_bodies,
                              p_command_ids, p_deadlines);
        RETURN;
    END IF;

    SELECT array_agg(lane) INTO mine
    FROM (SELECT DISTINCT covey.lane(key) AS lane FROM unnest(p_keys) AS key) AS lanes
    WHERE pg_try_advisory_xact_lock(p_class, lane);

    RETURN QUERY
        WITH new AS (
            INSERT INTO covey.inbox (id, stream, kind, type, key, source, time, headers, body, command_id, deadline)
            SELECT u.id, u.stream, u.kind, u.type, u.key, u.source, u.time, u.headers, u.body, u.command_id, u.deadline
            FROM unnest(p_ids, p_streams, p_kinds, p_types, p_keys, p_sources, p_times, p_headers, p_bodies,
                        p_command_ids, p_deadlines) WITH ORDINALITY
                 AS u (id, stream, kind, type, key, source, time, headers, body, command_id, deadline, n)
            ORDER BY u.n
            ON CONFLICT (id) DO NOTHING
            RETURNING id, position, key, command_id, deadline
        ), free AS MATERIALIZED (
            SELECT lane FROM unnest(mine) AS m (lane)
            WHERE NOT EXISTS (SELECT FROM covey.inbox_pending p WHERE p.lane = m.lane)
        ), judged AS MATERIALIZED (
            SELECT new.*, row_number() OVER (ORDER BY new.position) <= p_direct
                   AND covey.lane(new.key) IN (SELECT lane FROM free)
                   AND NOT EXISTS (SELECT FROM covey.hold h WHERE h.key = new.key) AS direct
            FROM new
        ), queued AS (
            INSERT INTO covey.inbox_pending SELECT covey.lane(key), position, key FROM judged WHERE NOT direct
        )
        SELECT j.id, j.position, j.deadline IS NOT NULL AND j.deadline <= clock_timestamp(), r.body
        FROM judged j LEFT JOIN covey.reply r ON r.command_id = j.command_id
        WHERE j.direct
        ORDER BY j.position;
END $$;

-- The same for a turn that has run its handlers already, as if nothing stood before any of these messages: store them,
-- or raise, which undoes the turn. So a turn can be this one statement, together with what the handlers want written.
CREATE FUNCTION covey.accept(
    p_class int, p_stream text, p_after bigint, p_upto bigint,
    p_ids uuid[], p_streams text[], p_kinds text[], p_types text[], p_keys text[], p_sources text[],
    p_times timestamptz[], p_headers jsonb[], p_bodies bytea[], p_command_ids uuid[], p_deadlines timestamptz[]
) RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    lanes smallint[] := ARRAY(SELECT DISTINCT covey.lane(key) FROM unnest(p_keys) AS key);
    stored int := 0;
BEGIN
    UPDATE covey.ingest SET sequence = p_upto WHERE stream = p_stream AND sequence = p_after;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'covey: fenced, another reader is ahead in the stream %', p_stream USING ERRCODE = 'CV001';
    END IF;
    IF NOT EXISTS (SELECT FROM unnest(lanes) AS lane WHERE NOT pg_try_advisory_xact_lock(p_class, lane)) THEN
        -- In a new statement, which sees what the locks' previous holders committed.
        INSERT INTO covey.inbox (id, stream, kind, type, key, source, time, headers, body, command_id, deadline)
        SELECT u.id, u.stream, u.kind, u.type, u.key, u.source, u.time, u.headers, u.body, u.command_id, u.deadline
        FROM unnest(p_ids, p_streams, p_kinds, p_types, p_keys, p_sources, p_times, p_headers, p_bodies,
                    p_command_ids, p_deadlines) WITH ORDINALITY
             AS u (id, stream, kind, type, key, source, time, headers, body, command_id, deadline, n)
        WHERE NOT EXISTS (SELECT FROM covey.inbox_pending p WHERE p.lane = ANY (lanes))
          AND NOT EXISTS (SELECT FROM covey.hold h WHERE h.key = ANY (p_keys))
          AND NOT EXISTS (SELECT FROM covey.reply r WHERE r.command_id = ANY (p_command_ids))
          AND NOT EXISTS (SELECT FROM unnest(p_deadlines) AS deadline WHERE deadline <= clock_timestamp())
        ORDER BY u.n
        ON CONFLICT (id) DO NOTHING;
        GET DIAGNOSTICS stored = ROW_COUNT;
    END IF;
    IF stored <> cardinality(p_ids) THEN
        RAISE EXCEPTION 'covey: something stands before these messages' USING ERRCODE = 'CV002';
    END IF;
END $$;

-- Leave messages that were not handled directly after all to the workers.
CREATE FUNCTION covey.queue(p_keys text[], p_positions bigint[]) RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    INSERT INTO covey.inbox_pending
    SELECT covey.lane(u.key), u.position, u.key FROM unnest(p_keys, p_positions) AS u (key, position);
END $$;

CREATE TYPE covey.delivery AS (
    lane smallint, "position" bigint, id uuid, stream text, kind text, type text, key text, source text,
    "time" timestamptz, headers jsonb, body bytea, command_id uuid, deadline timestamptz,
    expired boolean, answer bytea, attempts int
);

-- Lock lanes that have work and that nobody holds (a loose index scan finds them), then read their messages in a
-- NEW statement, which sees what the lock's previous holder committed. Messages of a held key step aside first.
CREATE FUNCTION covey.take(p_class int, p_lanes int, p_limit int)
RETURNS SETOF covey.delivery LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    mine smallint[];
    each_lane int := p_limit;
    hidden boolean := false;
BEGIN
    WITH RECURSIVE busy AS (
        (SELECT lane FROM covey.inbox_pending ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT p.lane FROM covey.inbox_pending p WHERE p.lane > busy.lane ORDER BY p.lane LIMIT 1)
        FROM busy WHERE busy.lane IS NOT NULL
    ), shuffled AS MATERIALIZED (
        SELECT lane FROM busy WHERE lane IS NOT NULL ORDER BY random()
    ), locked AS MATERIALIZED (
        SELECT lane FROM shuffled WHERE pg_try_advisory_xact_lock(p_class, lane) LIMIT p_lanes
    )
    SELECT array_agg(lane) INTO mine FROM locked;
    IF mine IS NULL THEN
        RETURN;
    END IF;

    -- What waits behind a hold is put aside, as far as this turn may come to it: to look far ahead in every turn would
    -- take longer than to handle what is found. Further only where nothing else is to be seen of a lane, so that a long
    -- tail of a held key does not hide the others; bounded, to stay short.
    IF EXISTS (SELECT FROM covey.hold) THEN
        each_lane := least(p_limit, greatest(32, 2 * p_limit / cardinality(mine)));
        FOR round IN 1..20 LOOP
            WITH heads AS MATERIALIZED (
                SELECT q.lane, q.position, h.key IS NOT NULL AS held
                FROM unnest(mine) AS l (lane),
                     LATERAL (SELECT * FROM covey.inbox_pending i WHERE i.lane = l.lane
                              ORDER BY i.position LIMIT CASE WHEN round = 1 THEN each_lane ELSE 1000 END) q
                     LEFT JOIN covey.hold h USING (key)
            ), aside AS (
                DELETE FROM covey.inbox_pending p USING heads
                WHERE heads.held AND p.lane = heads.lane AND p.position = heads.position
                RETURNING p.key, p.position
            ), stored AS (
                INSERT INTO covey.inbox_held SELECT key, position FROM aside
            )
            SELECT EXISTS (SELECT FROM heads GROUP BY lane HAVING bool_and(held)) INTO hidden;
            EXIT WHEN NOT hidden;
        END LOOP;
    END IF;

    RETURN QUERY
        SELECT q.lane, i.position, i.id, i.stream, i.kind, i.type, i.key, i.source, i.time, i.headers, i.body,
               i.command_id, i.deadline, i.deadline IS NOT NULL AND i.deadline <= clock_timestamp(), r.body, 0
        FROM (
            SELECT p.lane, p.position
            FROM unnest(mine) AS l (lane),
                 LATERAL (SELECT * FROM covey.inbox_pending s WHERE s.lane = l.lane
                          ORDER BY s.position LIMIT each_lane) p
            WHERE NOT EXISTS (SELECT FROM covey.hold h WHERE h.key = p.key)
            ORDER BY p.position LIMIT p_limit
        ) q
        JOIN covey.inbox i ON i.position = q.position
        LEFT JOIN covey.reply r ON r.command_id = i.command_id
        ORDER BY i.position;
END $$;

-- Lock the lane of one due hold and read what waits behind it, oldest first.
CREATE FUNCTION covey.take_due(p_class int, p_limit int)
RETURNS SETOF covey.delivery LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    due text;
BEGIN
    SELECT key INTO due
    FROM (SELECT key, lane FROM covey.hold
          WHERE until <= clock_timestamp() AND (crashes < 2 OR state = 'dead') ORDER BY until LIMIT 64) h
    WHERE pg_try_advisory_xact_lock(p_class, h.lane) LIMIT 1;
    IF due IS NULL THEN
        RETURN;
    END IF;

    -- In a new statement: the previous holder of the lock may have moved the hold on. A hold behind which
    -- nothing waits any more has done its work.
    DELETE FROM covey.hold h WHERE h.key = due AND h.until <= clock_timestamp()
        AND NOT EXISTS (SELECT FROM covey.inbox_held w WHERE w.key = due);
    RETURN QUERY
        SELECT h.lane, i.position, i.id, i.stream, i.kind, i.type, i.key, i.source, i.time, i.headers, i.body,
               i.command_id, i.deadline, i.deadline IS NOT NULL AND i.deadline <= clock_timestamp(), r.body,
               CASE WHEN i.position = h.position THEN h.attempts ELSE 0 END
        FROM covey.hold h
        JOIN covey.inbox_held w ON w.key = h.key
        JOIN covey.inbox i ON i.position = w.position
        LEFT JOIN covey.reply r ON r.command_id = i.command_id
        WHERE h.key = due AND h.until <= clock_timestamp()
        ORDER BY i.position LIMIT p_limit;
END $$;

-- Tell whether anything is ready, and whether a hold is due: one look that locks and writes nothing. Most wake-ups of a
-- worker are in vain, and a turn that finds nothing would be six round trips.
CREATE FUNCTION covey.look() RETURNS TABLE (o_ready boolean, o_due boolean)
LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    RETURN QUERY SELECT
        EXISTS (SELECT FROM covey.inbox_pending),
        EXISTS (SELECT FROM covey.hold WHERE until <= statement_timestamp() AND (crashes < 2 OR state = 'dead'));
END $$;

-- Take handled messages off the queue. Each must still be there: otherwise somebody else has handled it.
CREATE FUNCTION covey.finish(p_lanes smallint[], p_positions bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    gone int;
BEGIN
    DELETE FROM covey.inbox_pending p USING unnest(p_lanes, p_positions) AS done (lane, position)
    WHERE p.lane = done.lane AND p.position = done.position;
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone <> cardinality(p_positions) THEN
        RAISE EXCEPTION 'covey: fenced, % of % messages were still ours', gone, cardinality(p_positions)
            USING ERRCODE = 'CV001';
    END IF;
END $$;

-- The same for messages behind holds. A hold goes when nothing waits behind it; else what waits is due now.
CREATE FUNCTION covey.finish_held(p_keys text[], p_positions bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    gone int;
BEGIN
    DELETE FROM covey.inbox_held h USING unnest(p_keys, p_positions) AS done (key, position)
    WHERE h.key = done.key AND h.position = done.position;
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone <> cardinality(p_positions) THEN
        RAISE EXCEPTION 'covey: fenced, % of % messages were still ours', gone, cardinality(p_positions)
            USING ERRCODE = 'CV001';
    END IF;
    DELETE FROM covey.hold h USING unnest(p_keys) AS done (key)
    WHERE h.key = done.key AND NOT EXISTS (SELECT FROM covey.inbox_held w WHERE w.key = h.key);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone < cardinality(p_keys) THEN
        UPDATE covey.hold h SET state = 'waiting', until = clock_timestamp(), attempts = 0, token = NULL, owner = NULL,
               error = NULL, crashes = least(h.crashes, 2),
               position = (SELECT w.position FROM covey.inbox_held w WHERE w.key = h.key ORDER BY w.position LIMIT 1)
        FROM unnest(p_keys, p_positions) AS done (key, position)
        WHERE h.key = done.key AND h.position = done.position;
    END IF;
END $$;

-- Hold keys, each from one of its messages on: that message waits, and what is pending of the key steps aside when
-- taken. Each key once.
CREATE FUNCTION covey.park(
    p_keys text[], p_positions bigint[], p_states text[], p_afters interval[], p_attempts int[], p_tokens uuid[],
    p_owners int[], p_errors text[]
) RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    INSERT INTO covey.hold (key, lane, state, until, attempts, token, owner, position, error)
    SELECT u.key, covey.lane(u.key), u.state,
           CASE WHEN u.after IS NULL THEN 'infinity'::timestamptz ELSE clock_timestamp() + u.after END,
           u.attempts, u.token, u.owner, u.position, u.error
    FROM unnest(p_keys, p_states, p_afters, p_attempts, p_tokens, p_owners, p_positions, p_errors)
         AS u (key, state, after, attempts, token, owner, position, error)
    ON CONFLICT (key) DO UPDATE SET state = excluded.state, until = excluded.until, attempts = excluded.attempts,
        token = excluded.token, owner = excluded.owner, position = excluded.position, error = excluded.error,
        crashes = CASE WHEN excluded.state = 'working' THEN hold.crashes ELSE least(hold.crashes, 2) END,
        since = CASE WHEN excluded.state = 'dead' THEN clock_timestamp() ELSE hold.since END;

    DELETE FROM covey.inbox_pending p USING unnest(p_keys, p_positions) AS u (key, position)
    WHERE p.lane = covey.lane(u.key) AND p.position = u.position;
    INSERT INTO covey.inbox_held SELECT * FROM unnest(p_keys, p_positions) ON CONFLICT DO NOTHING;
    IF 'working' = ALL (p_states) THEN
        RETURN;
    END IF;

    -- Nobody waits for it past its deadline: then it is dropped, and what is behind it goes on.
    UPDATE covey.hold h SET until = least(h.until, i.deadline)
    FROM unnest(p_keys, p_positions, p_states) AS u (key, position, state), covey.inbox i
    WHERE u.state <> 'working' AND h.key = u.key AND i.position = u.position AND i.deadline IS NOT NULL;

    INSERT INTO covey.dead_letter_log (position, message_id, key, what, reason)
    SELECT u.position, i.id, u.key, 'parked', u.error
    FROM unnest(p_keys, p_positions, p_states, p_errors) AS u (key, position, state, error)
    JOIN covey.inbox i ON i.position = u.position WHERE u.state = 'dead';
END $$;

-- Find processes that have died, and what they may have died of (docs/decisions/0007): the heads of the lanes and of
-- the holds, whatever a turn could have had in hand. What was there in two deaths on end is put behind a hold, to be
-- handled alone. A lane whose lock is held is being worked on by somebody who lives. Returns how many have died.
CREATE FUNCTION covey.bury(p_owners int, p_lanes int, p_limit int, p_own int) RETURNS int
LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    died int;
    mine smallint[];
BEGIN
    DELETE FROM covey.process WHERE owner <> p_own AND pg_try_advisory_xact_lock(p_owners, owner);
    GET DIAGNOSTICS died = ROW_COUNT;
    IF died = 0 THEN
        RETURN 0;
    END IF;
    SELECT array_agg(lane) INTO mine FROM generate_series(0, 63) AS lane WHERE pg_try_advisory_xact_lock(p_lanes, lane);
    INSERT INTO covey.suspect AS s (position, lane, key)
        SELECT p.position, p.lane, p.key
        FROM unnest(mine) AS l (lane),
             LATERAL (SELECT * FROM covey.inbox_pending i WHERE i.lane = l.lane ORDER BY i.position LIMIT p_limit) p
        UNION
        SELECT position, lane, key
        FROM (SELECT * FROM covey.hold WHERE state = 'waiting' AND crashes < 2 AND until <= clock_timestamp()
              ORDER BY until LIMIT 64) h
        WHERE h.lane = ANY (mine)
    ON CONFLICT (position) DO UPDATE SET deaths = s.deaths + 1, at = now();
    DELETE FROM covey.suspect WHERE at < now() AND lane = ANY (mine);

    INSERT INTO covey.hold (key, lane, state, until, attempts, crashes, position)
        SELECT DISTINCT ON (key) key, lane, 'waiting', clock_timestamp(), 0, 2, position
        FROM covey.suspect WHERE deaths >= 2 AND lane = ANY (mine) ORDER BY key, position
    ON CONFLICT (key) DO UPDATE SET crashes = greatest(hold.crashes, 2);
    WITH aside AS (
        DELETE FROM covey.inbox_pending p USING covey.suspect s
        WHERE s.deaths >= 2 AND s.lane = ANY (mine) AND p.lane = s.lane AND p.position = s.position
        RETURNING p.key, p.position
    )
    INSERT INTO covey.inbox_held SELECT key, position FROM aside;
    DELETE FROM covey.suspect WHERE deaths >= 2 AND lane = ANY (mine);
    RETURN died;
END $$;

-- Say that a process is there, before its first turn; its number is locked already.
CREATE FUNCTION covey.arrive(p_owners int, p_lanes int, p_limit int, p_owner int) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM covey.bury(p_owners, p_lanes, p_limit, p_owner);
    INSERT INTO covey.process (owner) VALUES (p_owner) ON CONFLICT DO NOTHING;
END $$;

-- Take the hold of a suspect, and say so before it is begun: if the process dies of it, that is a crash of this one.
CREATE FUNCTION covey.begin_suspect(p_class int, p_owner int, p_token uuid, p_lease interval)
RETURNS TABLE (o_key text, o_crashes int) LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    due text;
BEGIN
    SELECT key INTO due
    FROM (SELECT key, lane FROM covey.hold
          WHERE crashes >= 2 AND state <> 'dead' AND until <= clock_timestamp() ORDER BY until LIMIT 64) h
    WHERE pg_try_advisory_xact_lock(p_class, h.lane) LIMIT 1;
    DELETE FROM covey.hold h WHERE h.key = due AND NOT EXISTS (SELECT FROM covey.inbox_held w WHERE w.key = due);
    RETURN QUERY
        UPDATE covey.hold SET state = 'working', token = p_token, owner = p_owner, until = clock_timestamp() + p_lease
        WHERE key = due AND crashes >= 2 AND state <> 'dead' AND until <= clock_timestamp()
        RETURNING key, crashes;
END $$;

-- Lock the lane of a suspect that was begun and read it: the oldest message of its key.
CREATE FUNCTION covey.take_suspect(p_class int, p_key text, p_token uuid)
RETURNS SETOF covey.delivery LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(p_class, covey.lane(p_key));
    RETURN QUERY
        SELECT h.lane, i.position, i.id, i.stream, i.kind, i.type, i.key, i.source, i.time, i.headers, i.body,
               i.command_id, i.deadline, i.deadline IS NOT NULL AND i.deadline <= clock_timestamp(), r.body,
               CASE WHEN i.position = h.position THEN h.attempts ELSE 0 END
        FROM covey.hold h
        JOIN covey.inbox_held w ON w.key = h.key
        JOIN covey.inbox i ON i.position = w.position
        LEFT JOIN covey.reply r ON r.command_id = i.command_id
        WHERE h.key = p_key AND h.token = p_token
        ORDER BY i.position LIMIT 1;
END $$;

-- Give back the keys whose outside work has lost its worker: every process holds a lock with its number for as long as
-- it lives. Each has then had a crash; past the fifth on end, which only what is never given up comes to, the next try
-- waits twice as long each time, up to 5 minutes. Returns how many there are, and how many processes have died.
CREATE FUNCTION covey.recover(p_class int, p_lanes int, p_limit int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    freed int;
    died int := covey.bury(p_class, p_lanes, p_limit, 0);
BEGIN
    IF NOT EXISTS (SELECT FROM covey.hold WHERE state = 'working') THEN
        RETURN died;
    END IF;
    UPDATE covey.hold SET state = 'waiting', token = NULL, owner = NULL, crashes = crashes + 1,
        until = clock_timestamp() + CASE WHEN crashes < 5 THEN interval '0'
            ELSE least(interval '5 minutes', interval '0.1 seconds' * 2 ^ least(crashes, 20)) END
    WHERE state = 'working' AND NOT EXISTS (
        SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid::bigint = p_class AND l.objsubid = 2
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.objid::bigint = owner::bigint);
    GET DIAGNOSTICS freed = ROW_COUNT;
    RETURN freed + died;
END $$;

-- Come back from effects outside: under the locks of their lanes, with each hold only if it is still the caller's. Says
-- too whether more waits behind the hold, which cannot change before the caller's transaction ends. What is in a lane
-- that somebody works in is left out; `p_wait` waits for the lane of the first.
CREATE FUNCTION covey.resume(p_class int, p_keys text[], p_tokens uuid[], p_wait boolean)
RETURNS TABLE (o_number bigint, o_ours boolean, o_more boolean) LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    had bigint[];
BEGIN
    IF p_wait THEN
        PERFORM pg_advisory_xact_lock(p_class, covey.lane(p_keys[1]));
    END IF;
    had := ARRAY(SELECT c.number FROM unnest(p_keys) WITH ORDINALITY AS c (key, number)
                 WHERE pg_try_advisory_xact_lock(p_class, covey.lane(c.key)));
    -- In a new statement: whoever had a lane before may have moved its holds on.
    RETURN QUERY SELECT c.number,
        EXISTS (SELECT FROM covey.hold h WHERE h.key = c.key AND h.token = c.token),
        EXISTS (SELECT FROM covey.inbox_held w WHERE w.key = c.key OFFSET 1)
    FROM unnest(p_keys, p_tokens) WITH ORDINALITY AS c (key, token, number) WHERE c.number = ANY (had);
END $$;
"""

SAGA = """
CREATE TABLE covey.saga (
    id          uuid PRIMARY KEY,
    name        text NOT NULL,
    version     int NOT NULL,
    status      text NOT NULL CHECK (status IN ('running', 'compensating', 'completed', 'compensated')),
    step        smallint NOT NULL,
    waiting     uuid,
    attempts    int NOT NULL DEFAULT 0,
    refusals    int NOT NULL DEFAULT 0,
    deadline    timestamptz,
    data        jsonb NOT NULL,
    reason      text,
    logged      int NOT NULL DEFAULT 0,
    token       bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    moved_at    timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz
) WITH (fillfactor = 70);
CREATE INDEX saga_due ON covey.saga (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX saga_open ON covey.saga (started_at) WHERE ended_at IS NULL;
CREATE INDEX saga_ended ON covey.saga (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE covey.saga_log (
    saga_id     uuid NOT NULL,
    n           int NOT NULL,
    step        text NOT NULL,
    what        text NOT NULL,
    message_id  uuid,
    detail      text,
    at          timestamptz NOT NULL,
    PRIMARY KEY (saga_id, n)
);

-- Write new sagas. `p_waits` is after how long each is to move by itself if nothing comes; `p_tokens` mark the writing.
CREATE FUNCTION covey.start_sagas(
    p_ids uuid[], p_names text[], p_versions int[], p_statuses text[], p_steps smallint[], p_attempts int[],
    p_refusals int[], p_waiting uuid[], p_data jsonb[], p_reasons text[], p_logged int[], p_waits interval[],
    p_tokens bigint[]
) RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    INSERT INTO covey.saga (id, name, version, status, step, attempts, refusals, waiting, data, reason, logged,
                            moved_at, deadline, token)
    SELECT u.id, u.name, u.version, u.status, u.step, u.attempts, u.refusals, u.waiting, u.data, u.reason, u.logged,
           clock_timestamp(), clock_timestamp() + u.wait, u.token
    FROM unnest(p_ids, p_names, p_versions, p_statuses, p_steps, p_attempts, p_refusals, p_waiting, p_data, p_reasons,
                p_logged, p_waits, p_tokens)
         AS u (id, name, version, status, step, attempts, refusals, waiting, data, reason, logged, wait, token);
END $$;

-- Lock and read sagas in the order of their ids, so that two transactions cannot wait for each other.
CREATE FUNCTION covey.load_sagas(p_ids uuid[]) RETURNS SETOF covey.saga LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    RETURN QUERY SELECT * FROM covey.saga WHERE id = ANY (p_ids) ORDER BY id FOR UPDATE;
END $$;

-- The same for sagas that the caller remembers: `move_sagas` will tell whether rightly.
CREATE FUNCTION covey.lock_sagas(p_ids uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    PERFORM FROM covey.saga WHERE id = ANY (p_ids) ORDER BY id FOR UPDATE;
END $$;

-- Write the states of sagas, each once, over the writing that the caller has read, or raise: it may remember it from
-- before. What has not moved keeps its deadline.
CREATE FUNCTION covey.move_sagas(
    p_ids uuid[], p_statuses text[], p_steps smallint[], p_attempts int[], p_refusals int[], p_waiting uuid[],
    p_data jsonb[], p_reasons text[], p_logged int[], p_waits interval[], p_tokens bigint[], p_read bigint[],
    p_moved boolean[]
) RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    written int;
BEGIN
    UPDATE covey.saga s SET status = u.status, step = u.step, attempts = u.attempts, refusals = u.refusals,
        waiting = u.waiting, data = u.data, reason = u.reason, logged = u.logged, token = u.token,
        moved_at = CASE WHEN u.moved THEN clock_timestamp() ELSE s.moved_at END,
        deadline = CASE WHEN u.moved THEN clock_timestamp() + u.wait ELSE s.deadline END,
        ended_at = CASE WHEN u.status IN ('completed', 'compensated') THEN clock_timestamp() END
    FROM unnest(p_ids, p_statuses, p_steps, p_attempts, p_refusals, p_waiting, p_data, p_reasons, p_logged, p_waits,
                p_tokens, p_read, p_moved)
         AS u (id, status, step, attempts, refusals, waiting, data, reason, logged, wait, token, read, moved)
    WHERE s.id = u.id AND s.token = u.read;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written <> cardinality(p_ids) THEN
        RAISE EXCEPTION 'covey: somebody else has moved the saga' USING ERRCODE = 'CV002';
    END IF;
END $$;

-- Take the deadlines that are over, at most so many; those that somebody else is moving are left for the next time.
CREATE FUNCTION covey.due_sagas(p_limit int) RETURNS TABLE (o_id uuid, o_waiting uuid, o_now timestamptz)
LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    RETURN QUERY
        UPDATE covey.saga s SET deadline = NULL
        WHERE s.id = ANY (ARRAY(
            SELECT d.id FROM covey.saga d WHERE d.deadline <= clock_timestamp()
            ORDER BY d.deadline LIMIT p_limit FOR UPDATE SKIP LOCKED))
        RETURNING s.id, s.waiting, clock_timestamp();
END $$;

CREATE FUNCTION covey.log_sagas(
    p_ids uuid[], p_ns int[], p_steps text[], p_whats text[], p_messages uuid[], p_details text[]
) RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    INSERT INTO covey.saga_log (saga_id, n, step, what, message_id, detail, at)
    SELECT u.saga_id, u.n, u.step, u.what, u.message, u.detail, now()
    FROM unnest(p_ids, p_ns, p_steps, p_whats, p_messages, p_details) AS u (saga_id, n, step, what, message, detail);
END $$;
"""

IDEMPOTENCY = """
CREATE TABLE covey.idempotency (
    scope       text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    status      int,
    headers     jsonb,
    body        bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_age ON covey.idempotency (created_at);

-- Keep what was answered to requests whose keys this transaction has claimed.
CREATE FUNCTION covey.keep_answers(p_scopes text[], p_keys text[], p_statuses int[], p_headers text[], p_bodies bytea[])
RETURNS void LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    UPDATE covey.idempotency i SET status = a.status, headers = a.headers::jsonb, body = a.body
    FROM unnest(p_scopes, p_keys, p_statuses, p_headers, p_bodies) AS a (scope, key, status, headers, body)
    WHERE i.scope = a.scope AND i.key = a.key;
END $$;
"""

RETENTION = """
-- Each forgets what is older than an age among the next rows from a place on, oldest first, but not what is needed.
-- Returns how many were that old, and the place of the last row; what is kept is passed over, so a thousand dead
-- letters cost one look. Places are positions, which an index has in order. A BRIN index of times is of no use here:
-- once the room of rows that went is taken by new ones, it tells nothing any more.
CREATE FUNCTION covey.forget_inbox(p_age interval, p_limit int, p_after bigint)
RETURNS TABLE (o_old bigint, o_place bigint) LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    RETURN QUERY
        WITH next AS MATERIALIZED (
            SELECT position, key, received_at < now() - p_age AS old FROM covey.inbox
            WHERE position > p_after ORDER BY position LIMIT p_limit
        ), gone AS (
            DELETE FROM covey.inbox i USING next n
            WHERE n.old AND i.position = n.position
              AND NOT EXISTS (SELECT FROM covey.inbox_pending p
                              WHERE p.lane = covey.lane(n.key) AND p.position = n.position)
              AND NOT EXISTS (SELECT FROM covey.inbox_held h WHERE h.key = n.key AND h.position = n.position)
        )
        SELECT count(*) FILTER (WHERE old), max(position) FROM next;
END $$;

CREATE FUNCTION covey.forget_outbox(p_age interval, p_limit int, p_after bigint)
RETURNS TABLE (o_old bigint, o_place bigint) LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    RETURN QUERY
        WITH next AS MATERIALIZED (
            SELECT position, created_at < now() - p_age AS old FROM covey.outbox
            WHERE position > p_after ORDER BY position LIMIT p_limit
        ), gone AS (
            DELETE FROM covey.outbox o USING next n
            WHERE n.old AND o.position = n.position
              AND NOT EXISTS (SELECT FROM covey.outbox_pending p WHERE p.position = n.position)
        )
        SELECT count(*) FILTER (WHERE old), max(position) FROM next;
END $$;

-- Of these nothing is kept: the oldest row is the next to go, and the place is always the beginning.
CREATE FUNCTION covey.forget_replies(p_age interval, p_limit int, p_after bigint)
RETURNS TABLE (o_old bigint, o_place bigint) LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    RETURN QUERY
        WITH gone AS (
            DELETE FROM covey.reply WHERE command_id = ANY (ARRAY(
                SELECT command_id FROM covey.reply WHERE at < now() - p_age ORDER BY at LIMIT p_limit)) RETURNING 1
        )
        SELECT count(*), 0::bigint FROM gone;
END $$;

CREATE FUNCTION covey.forget_idempotency(p_age interval, p_limit int, p_after bigint)
RETURNS TABLE (o_old bigint, o_place bigint) LANGUAGE plpgsql VOLATILE {planner} AS $$
BEGIN
    RETURN QUERY
        WITH old AS MATERIALIZED (
            SELECT scope, key FROM covey.idempotency WHERE created_at < now() - p_age ORDER BY created_at LIMIT p_limit
        ), gone AS (
            DELETE FROM covey.idempotency i USING old WHERE i.scope = old.scope AND i.key = old.key RETURNING 1
        )
        SELECT count(*), 0::bigint FROM gone;
END $$;

-- A saga that has ended goes with its history.
CREATE FUNCTION covey.forget_sagas(p_age interval, p_limit int, p_after bigint)
RETURNS TABLE (o_old bigint, o_place bigint) LANGUAGE plpgsql VOLATILE {planner} AS $$
DECLARE
    old uuid[] := ARRAY(SELECT id FROM covey.saga WHERE ended_at < now() - p_age ORDER BY ended_at LIMIT p_limit);
BEGIN
    DELETE FROM covey.saga_log WHERE saga_id = ANY (old);
    DELETE FROM covey.saga WHERE id = ANY (old);
    RETURN QUERY SELECT cardinality(old)::bigint, 0::bigint;
END $$;
"""


def upgrade() -> None:
    """Create the schema `covey`, owned by the service's role."""
    op.execute("CREATE SCHEMA IF NOT EXISTS covey")
    for part in (OUTBOX, INBOX, SAGA, IDEMPOTENCY, RETENTION):
        op.execute(part.replace("{planner}", PLANNER))


def downgrade() -> None:
    """Remove the schema with all that waits in it."""
    op.execute("DROP SCHEMA covey CASCADE")
