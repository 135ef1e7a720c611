//! The tables, as a person with `sqlite3` sees them, and the triggers that keep such a person safe.
//!
//! The store's own connection runs with triggers switched off, so that they cost it nothing and
//! fire for strangers only. They are plain SQL, because a shell has none of our functions:
//! - deleting a checkpoint is a reset: the row goes to history, its state goes, an event and an
//!   order are written, and the manifest is kept right (`(a | b) & ~(a & b)` is exclusive or);
//! - inserting or changing one is refused with a pointer to the command that does it.
//!
//! Every object's text is compared with what is written here when a store is opened, so that a
//! damaged trigger or column name is noticed. Columns are only ever added, with a new [`FORMAT`].

/// What `PRAGMA application_id` says of a Piton store: "Pito".
pub(super) const APPLICATION_ID: i32 = 0x5069_746F;

/// What `PRAGMA user_version` says of this format.
pub(super) const FORMAT: u32 = 1;

/// A name and the statement that creates it.
pub(super) struct Object {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

macro_rules! objects {
    ($($name:literal: $sql:literal)*) => { &[$(Object { name: $name, sql: $sql }),*] };
}

/// Every table, index and trigger, in the order of creation.
pub(super) const OBJECTS: &[Object] = objects! {
"checkpoints": "CREATE TABLE checkpoints (
  pipeline TEXT NOT NULL,
  partition TEXT NOT NULL,
  sink TEXT NOT NULL,
  position TEXT, -- JSON; NULL: begun, nothing durable yet
  records INTEGER NOT NULL,
  version INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  schema_version INTEGER NOT NULL,
  updated_at TEXT NOT NULL,
  kind TEXT,
  sink_state TEXT,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (pipeline, partition, sink)
) WITHOUT ROWID"
"manifest": "CREATE TABLE manifest ( -- how many rows each table has, and their checksums combined
  pipeline TEXT NOT NULL,
  holds TEXT NOT NULL,
  partition TEXT NOT NULL,
  sink TEXT NOT NULL,
  rows INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (pipeline, holds, partition, sink)
) WITHOUT ROWID"
"history": "CREATE TABLE history ( -- earlier checkpoints
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  partition TEXT NOT NULL,
  sink TEXT NOT NULL,
  position TEXT,
  records INTEGER NOT NULL,
  version INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  schema_version INTEGER NOT NULL,
  updated_at TEXT NOT NULL,
  kind TEXT,
  sink_state TEXT,
  checksum INTEGER NOT NULL
)"
"history_by_pipeline": "CREATE INDEX history_by_pipeline ON history (pipeline)"
"claims": "CREATE TABLE claims (
  pipeline TEXT NOT NULL,
  partition TEXT NOT NULL, -- '*': the whole pipeline
  epoch INTEGER NOT NULL,
  owner_host TEXT NOT NULL,
  owner_pid INTEGER NOT NULL,
  since TEXT NOT NULL,
  renewals INTEGER NOT NULL,
  lease_ms INTEGER NOT NULL,
  released INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (pipeline, partition)
) WITHOUT ROWID"
"state": "CREATE TABLE state ( -- what programs keep beside their position
  pipeline TEXT NOT NULL,
  partition TEXT NOT NULL,
  sink TEXT NOT NULL,
  key TEXT NOT NULL,
  json TEXT NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (pipeline, partition, sink, key)
) WITHOUT ROWID"
"pipelines": "CREATE TABLE pipelines (
  pipeline TEXT NOT NULL PRIMARY KEY,
  source TEXT NOT NULL,
  transforms TEXT NOT NULL,
  sinks TEXT NOT NULL,
  control TEXT NOT NULL,
  file TEXT,
  checksum INTEGER NOT NULL
)"
"runs": "CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  owner_host TEXT NOT NULL,
  owner_pid INTEGER NOT NULL,
  started_at TEXT NOT NULL,
  ended_at TEXT,
  ended_as TEXT,
  records INTEGER NOT NULL,
  error TEXT,
  progress TEXT
)"
"runs_by_pipeline": "CREATE INDEX runs_by_pipeline ON runs (pipeline)"
"events": "CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  at TEXT NOT NULL,
  who TEXT NOT NULL,
  what TEXT NOT NULL,
  detail TEXT NOT NULL
)"
"events_by_pipeline": "CREATE INDEX events_by_pipeline ON events (pipeline)"
"orders": "CREATE TABLE orders ( -- resets and rewinds that the next owner applies in the sinks
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  partition TEXT NOT NULL,
  sink TEXT NOT NULL,
  summary TEXT NOT NULL, -- vouches for the rest where there is no checksum
  kind TEXT NOT NULL,
  position_kind TEXT,
  position TEXT,
  records INTEGER NOT NULL,
  sink_state TEXT,
  output TEXT,
  who TEXT NOT NULL,
  at TEXT NOT NULL,
  applied_at TEXT,
  checksum INTEGER -- NULL: given by deleting a checkpoint in a shell
)"
"orders_by_pipeline": "CREATE INDEX orders_by_pipeline ON orders (pipeline)"
"dead_letters": "CREATE TABLE dead_letters (
  number INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  sink TEXT NOT NULL,
  id TEXT NOT NULL,
  partition TEXT NOT NULL,
  place TEXT NOT NULL,
  reason TEXT NOT NULL,
  record TEXT NOT NULL,
  at TEXT NOT NULL,
  checksum INTEGER NOT NULL,
  UNIQUE (pipeline, sink, id)
)"
"checkpoint_deleted": "CREATE TRIGGER checkpoint_deleted AFTER DELETE ON checkpoints BEGIN
  UPDATE manifest SET rows = rows - 1,
    checksum = (checksum | OLD.checksum) & ~(checksum & OLD.checksum)
    WHERE pipeline = OLD.pipeline AND holds = 'checkpoints';
  INSERT INTO history VALUES (NULL, OLD.pipeline, OLD.partition, OLD.sink, OLD.position, OLD.records,
    OLD.version, OLD.epoch, OLD.schema_version, OLD.updated_at, OLD.kind, OLD.sink_state,
    OLD.checksum);
  DELETE FROM state
    WHERE pipeline = OLD.pipeline AND partition = OLD.partition AND sink = OLD.sink;
  INSERT INTO events (pipeline, at, who, what, detail) VALUES (OLD.pipeline,
    strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'sql shell', 'reset',
    'checkpoint ' || OLD.partition || ' / ' || OLD.sink || ' was deleted by hand');
  INSERT INTO manifest SELECT OLD.pipeline, 'orders', '', '', 0, 0
    WHERE NOT EXISTS (SELECT 1 FROM manifest WHERE pipeline = OLD.pipeline AND holds = 'orders');
  UPDATE manifest SET rows = rows + 1 WHERE pipeline = OLD.pipeline AND holds = 'orders';
  INSERT INTO orders (id, pipeline, partition, sink, summary, kind, records, who, at)
    SELECT n, OLD.pipeline, OLD.partition, OLD.sink,
      n || ': reset ' || OLD.pipeline || ' / ' || OLD.partition || ' / ' || OLD.sink || ' at ' || t,
      'reset', 0, 'sql shell', t
    FROM (SELECT coalesce(max(id), 0) + 1 AS n, strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS t
      FROM orders);
END"
"checkpoint_inserted": "CREATE TRIGGER checkpoint_inserted BEFORE INSERT ON checkpoints BEGIN
  SELECT RAISE(ABORT, 'a checkpoint cannot be made by hand: piton run makes it; use `piton rewind` to go back');
END"
"checkpoint_updated": "CREATE TRIGGER checkpoint_updated BEFORE UPDATE ON checkpoints BEGIN
  SELECT RAISE(ABORT, 'a checkpoint cannot be changed by hand: use `piton rewind` to go back, or delete the row to begin anew');
END"
"state_deleted": "CREATE TRIGGER state_deleted AFTER DELETE ON state BEGIN
  UPDATE manifest SET rows = rows - 1,
    checksum = (checksum | OLD.checksum) & ~(checksum & OLD.checksum)
    WHERE pipeline = OLD.pipeline AND holds = 'state'
      AND partition = OLD.partition AND sink = OLD.sink;
END"
"state_inserted": "CREATE TRIGGER state_inserted BEFORE INSERT ON state BEGIN
  SELECT RAISE(ABORT, 'state cannot be made by hand: it belongs to a position');
END"
"state_updated": "CREATE TRIGGER state_updated BEFORE UPDATE ON state BEGIN
  SELECT RAISE(ABORT, 'state cannot be changed by hand: it belongs to a position');
END"
"dead_letter_deleted": "CREATE TRIGGER dead_letter_deleted AFTER DELETE ON dead_letters BEGIN
  UPDATE manifest SET rows = rows - 1,
    checksum = (checksum | OLD.checksum) & ~(checksum & OLD.checksum)
    WHERE pipeline = OLD.pipeline AND holds = 'dead letters';
END"
"pipeline_updated": "CREATE TRIGGER pipeline_updated BEFORE UPDATE ON pipelines BEGIN
  SELECT RAISE(ABORT, 'a pipeline cannot be changed by hand: use `piton pause`, `resume` or `cancel`');
END"
"pipeline_deleted": "CREATE TRIGGER pipeline_deleted BEFORE DELETE ON pipelines BEGIN
  SELECT RAISE(ABORT, 'a pipeline cannot be deleted by hand: use `piton reset` to make it begin anew');
END"
"claim_updated": "CREATE TRIGGER claim_updated BEFORE UPDATE ON claims BEGIN
  SELECT RAISE(ABORT, 'claims keep late writers out: a dead owner is replaced without help, so leave them alone');
END"
"claim_deleted": "CREATE TRIGGER claim_deleted BEFORE DELETE ON claims BEGIN
  SELECT RAISE(ABORT, 'claims keep late writers out: a dead owner is replaced without help, so leave them alone');
END"
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_creates_what_it_is_named() {
        for object in OBJECTS {
            let created = object.sql.split_whitespace().nth(2);
            assert_eq!(created, Some(object.name));
        }
    }
}
