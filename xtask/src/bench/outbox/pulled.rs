//! Pulling as Emmett does it (`@event-driven-io/emmett-postgresql` 0.42), imitated statement for
//! statement.
//!
//! Not that program, but what it asks of the server: a table of messages divided by partition and
//! by whether they are archived, with no index in the order of reading; a page of them by a query
//! whose text holds its values; then a transaction with one call of a function for each message,
//! which compares and sets the place. Left out, in its favour: pauses between pages, parsing,
//! checking and the handler's own call, and all that a program in JavaScript costs. Its backlog is
//! a tenth of the other's, which is in its favour, too: a page reads the whole table.

use std::time::{Duration, Instant};

use postgres::SimpleQueryMessage;

use super::{
    super::{Promise, judge, table},
    Outbox, refused,
};
use crate::command::Failure;

const BACKLOG: usize = 50_000;
/// Messages a page; its own default is 100.
const PAGES: [usize; 5] = [100, 300, 1000, 3000, 10_000];
/// How many times its best rate is the promise.
const TIMES: f64 = 20.0;
/// How long one setting is measured.
const ENOUGH: Duration = Duration::from_secs(10);

const TABLES: &str = "CREATE SCHEMA pulled; SET search_path = pulled;
CREATE SEQUENCE places;
CREATE TABLE messages (
  stream_position bigint NOT NULL,
  global_position bigint DEFAULT nextval('places'),
  transaction_id xid8 NOT NULL,
  created timestamptz NOT NULL DEFAULT now(),
  is_archived boolean NOT NULL DEFAULT false,
  stream_id text NOT NULL,
  partition text NOT NULL DEFAULT 'default',
  schema_version text NOT NULL DEFAULT '1',
  message_id text NOT NULL,
  message_type text NOT NULL,
  data jsonb NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  PRIMARY KEY (stream_id, stream_position, partition, is_archived)
) PARTITION BY LIST (partition);
CREATE TABLE messages_default PARTITION OF messages FOR VALUES IN ('default')
  PARTITION BY LIST (is_archived);
CREATE TABLE messages_active PARTITION OF messages_default FOR VALUES IN (false);
CREATE TABLE messages_archived PARTITION OF messages_default FOR VALUES IN (true);
CREATE TABLE processors (
  processor text, version int, partition text, upto text NOT NULL, transaction_id xid8 NOT NULL,
  updated timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (processor, partition, version)
);
CREATE FUNCTION store(name text, of_version int, new_place text, expected text, id xid8,
  of_partition text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  UPDATE pulled.processors SET upto = new_place, transaction_id = id, updated = now()
    WHERE processor = name AND upto = expected AND partition = of_partition
    AND version = of_version;
  IF FOUND THEN RETURN 1; END IF;
  RETURN 2;
END $$";

/// `ours` is the rate to compare with, in messages a second.
pub(super) fn run(outbox: &Outbox, ours: f64) -> Result<Promise, Failure> {
    outbox.sql(TABLES)?;
    // Streams of ten messages.
    outbox.sql(&format!(
        "DO $$ BEGIN FOR i IN 1..{BACKLOG} / 500 LOOP
           INSERT INTO pulled.messages
             (stream_id, stream_position, transaction_id, message_id, message_type, data)
           SELECT 'order-' || (i * 50 + n / 10), n % 10, pg_current_xact_id(),
             md5((i * 500 + n)::text), 'OrderPlaced',
             jsonb_build_object('order', i * 500 + n, 'customer', n, 'total', 12.50)
           FROM generate_series(0, 499) n;
           COMMIT;
         END LOOP; END $$"
    ))?;
    outbox.settle("pulled.messages")?;
    let mut best: f64 = 0.0;
    let mut rows = Vec::new();
    for page in PAGES {
        let rate = pull(outbox, page)?;
        best = best.max(rate);
        rows.push(vec![page.to_string(), format!("{rate:.0}")]);
    }
    outbox.sql("DROP SCHEMA pulled CASCADE")?;
    table::print(&["pulled as Emmett does, messages a page", "messages/s"], &rows);
    let promise =
        format!("at least {TIMES} times an imitation of Emmett's way at its best setting");
    let times = ours / best;
    Ok(judge(&promise, &format!("{times:.0}"), times >= TIMES))
}

/// Messages a second, from the first on, as long as there are any and it is not enough.
fn pull(outbox: &Outbox, page: usize) -> Result<f64, Failure> {
    let refused = |error: postgres::Error| refused(&error);
    let mut client = outbox.client()?;
    client
        .batch_execute(
            "SET search_path = pulled;
             TRUNCATE processors; INSERT INTO processors VALUES ('bench', 1, 'default', '0', '0')",
        )
        .map_err(refused)?;
    let (mut after, mut stored, mut messages) = (0_u64, String::from("0"), 0_usize);
    let began = Instant::now();
    while began.elapsed() < ENOUGH {
        let query = format!(
            "SELECT stream_id, stream_position, global_position, data, metadata, schema_version, \
             message_type, message_id FROM messages WHERE partition = 'default' \
             AND is_archived = FALSE AND transaction_id < pg_snapshot_xmin(pg_current_snapshot()) \
             AND global_position >= {} ORDER BY transaction_id, global_position LIMIT {page}",
            after + 1
        );
        let read = client.simple_query(&query).map_err(refused)?;
        let places = read.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(2).map(str::to_owned),
            _ => None,
        });
        let places: Vec<String> = places.collect();
        let Some(last) = places.last() else { break };
        after = last.parse().unwrap_or(u64::MAX);
        client.simple_query("BEGIN").map_err(refused)?;
        for place in &places {
            let store = format!(
                "SELECT store('bench', 1, '{place}', '{stored}', pg_current_xact_id(), 'default')"
            );
            client.simple_query(&store).map_err(refused)?;
            stored.clone_from(place);
        }
        client.simple_query("COMMIT").map_err(refused)?;
        messages += places.len();
    }
    Ok(messages as f64 / began.elapsed().as_secs_f64())
}
