
-- Processors: readers of an outbox, in any language, whose checkpoints are moved by functions in
-- the caller's own transaction. They are checkpoints like all others: the processor's name is the
-- pipeline, its version the sink. Rows that are written here carry the checksum that a server can
-- compute; everything else is as it is for programs that open the store.

-- 63 bits of SHA-256 over columns as text, each with its length.
CREATE FUNCTION sealed(VARIADIC columns text[]) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE SET search_path = piton, pg_temp AS $$
DECLARE
  sealed text := '';
  c text;
BEGIN
  FOREACH c IN ARRAY columns LOOP
    sealed := sealed || coalesce(octet_length(convert_to(c, 'UTF8')) || ':' || c, '-');
  END LOOP;
  RETURN ('x' || left(encode(sha256(convert_to(sealed, 'UTF8')), 'hex'), 16))::bit(64)::bigint
    & 9223372036854775807;
END $$;

-- A time as rows have it: RFC 3339 in UTC, without zeros at its end.
CREATE FUNCTION moment(at timestamptz) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = piton, pg_temp AS $$
BEGIN
  RETURN rtrim(rtrim(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.') || 'Z';
END $$;

CREATE FUNCTION change_manifest(named text, held text, added bigint, change bigint) RETURNS void
LANGUAGE sql SET search_path = piton, pg_temp AS $$
INSERT INTO manifest AS m (pipeline, holds, partition, sink, rows, checksum)
VALUES (named, held, '', '', added, change)
ON CONFLICT (pipeline, holds, partition, sink) DO UPDATE
  SET rows = m.rows + excluded.rows, checksum = m.checksum # excluded.checksum
$$;

-- Waits for those who grant claims or change a pipeline in other ways, and for nobody who saves:
-- an owner shows that it lives while a transaction of its own is open.
CREATE FUNCTION lock_claims(named text) RETURNS void
LANGUAGE sql SET search_path = piton, pg_temp AS $$
SELECT FROM anchors WHERE pipeline = named FOR KEY SHARE;
SELECT FROM manifest WHERE pipeline = named AND holds = 'claims' FOR UPDATE
$$;

-- Waits for those who save or change the pipeline, and for nobody who renews its claim.
CREATE FUNCTION lock_to_save(named text) RETURNS void
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
BEGIN
  PERFORM FROM anchors WHERE pipeline = named FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    INSERT INTO anchors (pipeline) VALUES (named) ON CONFLICT DO NOTHING;
    PERFORM FROM anchors WHERE pipeline = named FOR NO KEY UPDATE;
  END IF;
END $$;

-- Refuses the name of a pipeline: its checkpoints are moved by runs alone.
CREATE FUNCTION refuse_pipeline(named text) RETURNS void
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM pipelines WHERE pipeline = named AND source <> '"processor"') THEN
    RAISE EXCEPTION '''%'' is a pipeline or job of this store, and no processor', named
      USING ERRCODE = 'invalid_parameter_value', HINT = 'give the processor another name';
  END IF;
END $$;

-- Makes a processor known to whoever looks at the store. `ver`: a version that it has.
CREATE FUNCTION register_processor(named text, ver int) RETURNS void
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
DECLARE
  old pipelines;
  sum bigint;
  listed text;
BEGIN
  PERFORM refuse_pipeline(named);
  SELECT * INTO old FROM pipelines WHERE pipeline = named;
  SELECT '[' || string_agg(format('{"name":%s,"kind":"processor","at":"the program itself",'
      '"replay":"sends_again"}', to_json(sink)), ',' ORDER BY sink) || ']' INTO listed
    FROM (SELECT sink FROM checkpoints WHERE pipeline = named UNION SELECT 'v' || ver) AS s;
  IF old.sinks = listed THEN
    RETURN;
  END IF;
  sum := sealed(named, '"processor"', '[]', listed, coalesce(old.control, 'run'), old.file);
  INSERT INTO pipelines AS p (pipeline, source, transforms, sinks, control, file, checksum)
    VALUES (named, '"processor"', '[]', listed, 'run', NULL, sum)
    ON CONFLICT (pipeline) DO UPDATE SET transforms = excluded.transforms,
      sinks = excluded.sinks, checksum = excluded.checksum;
  PERFORM change_manifest(named, 'definition', (old.pipeline IS NULL)::int,
    coalesce(old.checksum, 0) # sum);
  PERFORM change_manifest(named, 'checkpoints', 0, 0);
END $$;

-- Resets and rewinds have been done in the store; where a processor's checkpoint is, there is
-- nothing else to do them in.
CREATE FUNCTION apply_orders(named text) RETURNS void
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
DECLARE
  now text := moment(clock_timestamp());
BEGIN
  IF EXISTS (SELECT FROM manifest
      WHERE pipeline = named AND holds = 'orders' AND rows > 0) THEN
    PERFORM change_manifest(named, 'orders', -count(*), coalesce(bit_xor(checksum), 0))
      FROM orders WHERE pipeline = named AND applied_at IS NULL;
    UPDATE orders SET applied_at = now, checksum = CASE WHEN checksum IS NOT NULL
        THEN sealed(checksum::text, now) END
      WHERE pipeline = named AND applied_at IS NULL;
  END IF;
END $$;

-- Of replaced checkpoints stay: all of the last hour, one a minute for a day, one an hour for
-- thirty days.
CREATE FUNCTION thin_processor(named text) RETURNS void
LANGUAGE sql SET search_path = piton, pg_temp AS $$
WITH past AS (
  SELECT id, position, at, row_number() OVER (PARTITION BY partition, sink,
    CASE WHEN at > now() - interval '1 hour' THEN id::text
      WHEN at > now() - interval '1 day' THEN date_trunc('minute', at)::text
      ELSE date_trunc('hour', at)::text END ORDER BY id DESC) AS nth
  FROM (SELECT *, updated_at::timestamptz AS at FROM history WHERE pipeline = named) AS h
)
DELETE FROM history USING past WHERE history.id = past.id AND past.position IS NOT NULL
  AND (past.nth > 1 OR past.at < now() - interval '30 days')
$$;

-- Moves a checkpoint. `mine`: the epoch of a claim, or NULL for a caller that has none.
-- `fingerprint`: what was seen of the server at the new position, as JSON; NULL: nothing.
-- outcome: 0 already there, 1 stored, 2 the stored one is further, 3 another mismatch, 4 fenced,
-- 5 the new position is below the stored one, and the caller may not go back.
CREATE FUNCTION move_processor(named text, part text, ver int, new_transaction xid8,
  new_position bigint, expected_transaction xid8, expected_position bigint, by_pair boolean,
  mine bigint, may_go_back boolean, handled bigint, fingerprint text,
  OUT outcome int, OUT stored text, OUT stored_version bigint, OUT fence bigint)
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
DECLARE
  old checkpoints;
  last_transaction xid8;
  last_position bigint;
  goes_back boolean;
  due boolean;
  now timestamptz := clock_timestamp();
  new json;
BEGIN
  IF named IS NULL OR named = '' OR part IS NULL OR ver IS NULL THEN
    RAISE EXCEPTION 'a processor has a name, a partition and a version: none of them may be null'
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF new_position IS NULL OR new_transaction IS NULL THEN
    RAISE EXCEPTION 'the new position of ''%'' and its transaction_id may not be null', named
      USING ERRCODE = 'null_value_not_allowed',
        HINT = 'they are those of the last message that was handled';
  ELSIF by_pair AND (expected_position IS NULL) <> (expected_transaction IS NULL) THEN
    RAISE EXCEPTION 'what ''%'' expects has a position and a transaction_id, or neither', named
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  PERFORM lock_to_save(named);
  PERFORM refuse_pipeline(named);
  SELECT * INTO old FROM checkpoints
    WHERE pipeline = named AND partition = part AND sink = 'v' || ver;
  SELECT greatest(max(epoch), old.epoch, 0) INTO fence FROM claims
    WHERE pipeline = named AND partition IN (part, '*');
  stored := old.position;
  stored_version := coalesce(old.version, 0);
  IF mine < fence THEN
    outcome := 4;
    RETURN;
  ELSIF mine > fence THEN
    RAISE EXCEPTION 'the epoch % was never granted to ''%''', mine, named
      USING ERRCODE = 'invalid_parameter_value', HINT = 'take the one that claim_processor gave';
  ELSIF old.kind <> 'postgres_outbox' THEN
    RAISE EXCEPTION 'the checkpoint of ''%'' is of another kind of source: %', named, old.kind
      USING ERRCODE = 'invalid_parameter_value', HINT = 'give the processor another name';
  ELSIF old.pipeline IS NULL AND (SELECT count(*) FROM checkpoints WHERE pipeline = named)
      <> coalesce((SELECT rows FROM manifest WHERE pipeline = named AND holds = 'checkpoints'), 0)
  THEN
    RAISE EXCEPTION 'checkpoints of ''%'' are missing: the store is damaged', named
      USING ERRCODE = 'data_corrupted', HINT = 'restore a backup, or see `piton status`';
  END IF;
  last_transaction := (old.position::json ->> 'transaction_id')::xid8;
  last_position := (old.position::json ->> 'position')::bigint;
  goes_back := coalesce(
    (new_transaction, new_position) < (last_transaction, last_position), false);
  IF last_position IS NOT DISTINCT FROM expected_position
      AND (NOT by_pair OR last_transaction IS NOT DISTINCT FROM expected_transaction) THEN
    outcome := CASE WHEN goes_back AND NOT may_go_back THEN 5 ELSE 1 END;
  ELSIF last_position = new_position AND (NOT by_pair OR last_transaction = new_transaction) THEN
    outcome := 0;
  ELSIF last_position IS NOT NULL AND (expected_position IS NULL OR CASE WHEN by_pair
      THEN (last_transaction, last_position) > (expected_transaction, expected_position)
      ELSE last_position > expected_position END) THEN
    outcome := 2;
  ELSE
    outcome := 3;
  END IF;
  IF outcome <> 1 THEN
    RETURN;
  END IF;
  IF old.pipeline IS NULL THEN
    PERFORM register_processor(named, ver);
  ELSE
    SELECT goes_back OR old.position IS NULL OR coalesce(old.updated_at::timestamptz
      - (SELECT updated_at::timestamptz FROM history WHERE pipeline = named
        ORDER BY id DESC LIMIT 1) >= interval '1 second', true) INTO due;
  END IF;
  stored := format('{"transaction_id":"%s","position":%s%s}', new_transaction, new_position,
    ',"fingerprint":' || fingerprint);
  stored_version := stored_version + 1;
  old.records := coalesce(old.records, 0) + handled;
  old.epoch := coalesce(mine, old.epoch, 0);
  old.schema_version := coalesce(old.schema_version, 0);
  SELECT json_build_array(json_build_object('partition', part, 'sink', 'v' || ver,
    'position', stored, 'records', old.records, 'version', stored_version, 'epoch', old.epoch,
    'schema_version', old.schema_version, 'updated_at', moment(now), 'kind', 'postgres_outbox',
    'sink_state', old.sink_state, 'checksum', sealed(named, part, 'v' || ver, 'postgres_outbox',
      stored, old.records::text, stored_version::text, old.epoch::text,
      old.schema_version::text, moment(now), old.sink_state))) INTO new;
  PERFORM put_checkpoints(named, new, coalesce(due, false));
  PERFORM apply_orders(named);
  IF goes_back THEN
    INSERT INTO events (pipeline, at, who, what, detail) VALUES (named, moment(now),
      session_user || ' (sql)', 'rewind', 'partition ''' || part || ''', version ' || ver
      || ' went back from ' || old.position || ' to ' || stored);
  END IF;
  IF stored_version % 1000 = 0 THEN
    PERFORM thin_processor(named);
  END IF;
END $$;

-- Whether somebody else's claim of a processor lives.
CREATE FUNCTION is_claimed(named text, by text) RETURNS boolean
LANGUAGE sql SET search_path = piton, pg_temp AS $$
SELECT EXISTS (SELECT FROM claims c, LATERAL (SELECT
    sealed('piton claim', c.pipeline, c.partition, c.epoch::text) AS number) AS lock
  WHERE pipeline = named AND released = 0 AND CASE
    WHEN lease_until IS NOT NULL THEN lease_until > clock_timestamp() AND owner_host <> by
    WHEN heard_at < pg_postmaster_start_time()
      THEN clock_timestamp() < pg_postmaster_start_time() + interval '10 seconds'
    ELSE heard_at + lease_ms * interval '1 millisecond' > clock_timestamp()
      AND EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND classid::bigint = number >> 32 AND objid::bigint = number & 4294967295
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    END)
$$;

-- Claims a processor. The epoch of the claim; NULL while another owner has it whose lease is not
-- over, and while the processor is paused or cancelled.
CREATE FUNCTION claim_processor(processor_id text, owner text, lease interval) RETURNS bigint
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
DECLARE
  granted bigint;
  swept record;
  now text := moment(clock_timestamp());
  ms bigint := extract(epoch FROM lease) * 1000;
  sum bigint;
BEGIN
  IF processor_id IS NULL OR processor_id = '' OR owner IS NULL OR ms IS NULL OR ms <= 0 THEN
    RAISE EXCEPTION 'a claim needs the name of a processor, an owner, and a lease above zero'
      USING ERRCODE = 'invalid_parameter_value';
  ELSIF is_claimed(processor_id, owner) THEN
    RETURN NULL;
  END IF;
  PERFORM lock_pipeline(processor_id);
  IF is_claimed(processor_id, owner) THEN
    RETURN NULL;
  END IF;
  PERFORM register_processor(processor_id, 1);
  IF EXISTS (SELECT FROM pipelines WHERE pipeline = processor_id AND control <> 'run') THEN
    RETURN NULL;
  END IF;
  SELECT 1 + greatest((SELECT max(epoch) FROM claims WHERE pipeline = processor_id),
    (SELECT max(epoch) FROM checkpoints WHERE pipeline = processor_id), 0) INTO granted;
  WITH gone AS (DELETE FROM claims WHERE pipeline = processor_id RETURNING checksum)
    SELECT count(*) AS rows, coalesce(bit_xor(checksum), 0) AS checksum INTO swept FROM gone;
  sum := sealed(processor_id, '*', granted::text, owner, '0', now, '0', ms::text, '0');
  INSERT INTO claims (pipeline, partition, epoch, owner_host, owner_pid, since, renewals, lease_ms,
      released, checksum, lease_until)
    VALUES (processor_id, '*', granted, owner, 0, now, 0, ms, 0, sum, clock_timestamp() + lease);
  PERFORM change_manifest(processor_id, 'claims', 1 - swept.rows, swept.checksum # sum);
  UPDATE anchors SET epoch = granted WHERE pipeline = processor_id;
  UPDATE runs SET ended_at = now, ended_as = 'crashed', error = 'its lease ended'
    WHERE pipeline = processor_id AND ended_at IS NULL;
  INSERT INTO runs (pipeline, epoch, owner_host, owner_pid, started_at, records)
    VALUES (processor_id, granted, owner, 0, now, 0);
  PERFORM apply_orders(processor_id);
  PERFORM thin_processor(processor_id);
  RETURN granted;
END $$;

-- Rewrites a claim that is the newest. False: it is not.
CREATE FUNCTION touch_claim(named text, mine bigint, gives_up boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
DECLARE
  old claims;
  sum bigint;
BEGIN
  PERFORM lock_claims(named);
  SELECT * INTO old FROM claims WHERE pipeline = named ORDER BY epoch DESC LIMIT 1;
  IF old.epoch IS DISTINCT FROM mine OR old.released <> 0 OR old.lease_until IS NULL THEN
    RETURN false;
  END IF;
  old.renewals := old.renewals + (NOT gives_up)::int;
  sum := sealed(named, old.partition, mine::text, old.owner_host, old.owner_pid::text, old.since,
    old.renewals::text, old.lease_ms::text, gives_up::int::text);
  UPDATE claims SET renewals = old.renewals, released = gives_up::int, checksum = sum,
      lease_until = clock_timestamp() + lease_ms * interval '1 millisecond'
    WHERE pipeline = named AND partition = old.partition;
  PERFORM change_manifest(named, 'claims', 0, old.checksum # sum);
  RETURN true;
END $$;

-- Shows that the owner lives. False: a newer one has taken over, or the processor is paused or
-- cancelled. Stop then.
CREATE FUNCTION renew_processor(processor_id text, epoch bigint) RETURNS boolean
LANGUAGE sql SET search_path = piton, pg_temp AS $$
SELECT coalesce((SELECT control = 'run' FROM pipelines WHERE pipeline = processor_id), false)
  AND touch_claim(processor_id, epoch, false)
$$;

-- Gives a claim up. False: it was not the newest any more.
CREATE FUNCTION release_processor(processor_id text, epoch bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
BEGIN
  IF NOT touch_claim(processor_id, epoch, true) THEN
    RETURN false;
  END IF;
  UPDATE runs r SET ended_at = moment(clock_timestamp()), ended_as = 'stopped'
    WHERE r.pipeline = processor_id AND r.epoch = release_processor.epoch AND ended_at IS NULL;
  RETURN true;
END $$;

-- Lets a processor that was paused or cancelled run again. False: there is nothing to lift.
CREATE FUNCTION resume_processor(processor_id text) RETURNS boolean
LANGUAGE plpgsql SET search_path = piton, pg_temp AS $$
DECLARE
  old pipelines;
  sum bigint;
BEGIN
  PERFORM lock_pipeline(processor_id);
  SELECT * INTO old FROM pipelines WHERE pipeline = processor_id AND source = '"processor"';
  IF coalesce(old.control, 'run') = 'run' THEN
    RETURN false;
  END IF;
  sum := sealed(processor_id, old.source, old.transforms, old.sinks, 'run', old.file);
  UPDATE pipelines SET control = 'run', checksum = sum WHERE pipeline = processor_id;
  PERFORM change_manifest(processor_id, 'definition', 0, old.checksum # sum);
  INSERT INTO events (pipeline, at, who, what, detail) VALUES (processor_id,
    moment(clock_timestamp()), session_user || ' (sql)', 'resume', 'goes on');
  RETURN true;
END $$;

-- What programs call: 1 stored, 0 already there, 2 the stored one is further, 3 another mismatch,
-- 4 fenced by a newer claim. Only after 1 may the caller commit.

CREATE FUNCTION store_processor_checkpoint(processor_id text, new_position bigint,
  expected_position bigint, transaction_id xid8) RETURNS int
LANGUAGE sql AS $$ SELECT (piton.move_processor(processor_id, 'outbox', 1, transaction_id,
  new_position, NULL, expected_position, false, NULL, true, 0, NULL)).outcome $$;

CREATE FUNCTION store_processor_checkpoint(processor_id text, new_position bigint,
  expected_position bigint, transaction_id xid8, epoch bigint) RETURNS int
LANGUAGE plpgsql AS $$ BEGIN
  PERFORM piton.need_epoch(epoch);
  RETURN (piton.move_processor(processor_id, 'outbox', 1, transaction_id,
    new_position, NULL, expected_position, false, epoch, true, 0, NULL)).outcome;
END $$;

CREATE FUNCTION store_processor_checkpoint(processor_id text, new_position bigint,
  expected_position bigint, transaction_id xid8, expected_transaction_id xid8) RETURNS int
LANGUAGE sql AS $$ SELECT (piton.move_processor(processor_id, 'outbox', 1, transaction_id,
  new_position, expected_transaction_id, expected_position, true, NULL, true, 0, NULL)).outcome $$;

CREATE FUNCTION store_processor_checkpoint(processor_id text, new_position bigint,
  expected_position bigint, transaction_id xid8, expected_transaction_id xid8, epoch bigint)
  RETURNS int
LANGUAGE plpgsql AS $$ BEGIN
  PERFORM piton.need_epoch(epoch);
  RETURN (piton.move_processor(processor_id, 'outbox', 1, transaction_id,
    new_position, expected_transaction_id, expected_position, true, epoch, true, 0, NULL)).outcome;
END $$;

CREATE FUNCTION store_processor_checkpoint(processor_id text, new_position bigint,
  expected_position bigint, transaction_id xid8, expected_transaction_id xid8, epoch bigint,
  partition text, version int) RETURNS int
LANGUAGE plpgsql AS $$ BEGIN
  PERFORM piton.need_epoch(epoch);
  RETURN (piton.move_processor(processor_id, partition, version, transaction_id,
    new_position, expected_transaction_id, expected_position, true, epoch, true, 0, NULL)).outcome;
END $$;

CREATE FUNCTION need_epoch(epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN
  IF epoch IS NULL THEN
    RAISE EXCEPTION 'the epoch is null: the processor is not claimed'
      USING ERRCODE = 'null_value_not_allowed', HINT = 'claim_processor gave none: wait, ask again';
  END IF;
END $$;

CREATE VIEW processor_checkpoints AS
SELECT pipeline AS processor_id,
  (position::json ->> 'position')::bigint AS last_processed_position,
  (position::json ->> 'transaction_id')::xid8 AS last_processed_transaction_id,
  partition, substr(sink, 2)::int AS version
FROM checkpoints WHERE kind = 'postgres_outbox' AND sink ~ '^v[0-9]{1,9}$'
  AND pipeline IN (SELECT pipeline FROM pipelines WHERE source = '"processor"');
