
-- The same names in the schema in which this is run, so that callers need not know `piton`.

DO $$ BEGIN
  IF current_schema() = 'piton' THEN
    RAISE EXCEPTION 'run this with the search path of the programs that will call it';
  END IF;
END $$;

CREATE OR REPLACE VIEW processor_checkpoints AS SELECT * FROM piton.processor_checkpoints;

CREATE OR REPLACE FUNCTION store_processor_checkpoint(processor_id text, new_position bigint, expected_position bigint, transaction_id xid8) RETURNS int
LANGUAGE sql AS $$ SELECT piton.store_processor_checkpoint(
  processor_id, new_position, expected_position, transaction_id) $$;

CREATE OR REPLACE FUNCTION store_processor_checkpoint(
  processor_id text, new_position bigint, expected_position bigint, transaction_id xid8,
  epoch bigint) RETURNS int
LANGUAGE sql AS $$ SELECT piton.store_processor_checkpoint(
  processor_id, new_position, expected_position, transaction_id, epoch) $$;

CREATE OR REPLACE FUNCTION store_processor_checkpoint(
  processor_id text, new_position bigint, expected_position bigint, transaction_id xid8,
  expected_transaction_id xid8) RETURNS int
LANGUAGE sql AS $$ SELECT piton.store_processor_checkpoint(
  processor_id, new_position, expected_position, transaction_id, expected_transaction_id) $$;

CREATE OR REPLACE FUNCTION store_processor_checkpoint(
  processor_id text, new_position bigint, expected_position bigint, transaction_id xid8,
  expected_transaction_id xid8, epoch bigint) RETURNS int
LANGUAGE sql AS $$ SELECT piton.store_processor_checkpoint(
  processor_id, new_position, expected_position, transaction_id, expected_transaction_id, epoch) $$;

CREATE OR REPLACE FUNCTION store_processor_checkpoint(
  processor_id text, new_position bigint, expected_position bigint, transaction_id xid8,
  expected_transaction_id xid8, epoch bigint, partition text, version int) RETURNS int
LANGUAGE sql AS $$ SELECT piton.store_processor_checkpoint(
  processor_id, new_position, expected_position, transaction_id, expected_transaction_id, epoch, partition, version) $$;

CREATE OR REPLACE FUNCTION claim_processor(processor_id text, owner text, lease interval) RETURNS bigint
LANGUAGE sql AS $$ SELECT piton.claim_processor(processor_id, owner, lease) $$;

CREATE OR REPLACE FUNCTION renew_processor(processor_id text, epoch bigint) RETURNS boolean
LANGUAGE sql AS $$ SELECT piton.renew_processor(processor_id, epoch) $$;

CREATE OR REPLACE FUNCTION release_processor(processor_id text, epoch bigint) RETURNS boolean
LANGUAGE sql AS $$ SELECT piton.release_processor(processor_id, epoch) $$;

CREATE OR REPLACE FUNCTION resume_processor(processor_id text) RETURNS boolean
LANGUAGE sql AS $$ SELECT piton.resume_processor(processor_id) $$;
