//! The tables of checkpoints in a MySQL or MariaDB database.
//!
//! Every statement is prepared, and names are in backticks, so that it means the same whatever
//! `sql_mode` the session has.

use std::str;

use mysql::{Conn, Params, Row, Value, prelude::Queryable as _};
use piton_core::{
    Checkpoint, CheckpointKey, Epoch, StoredPosition,
    checksum::{Checksum, Manifest},
    fault,
};

use super::{Ledger, LedgerError};
use crate::joined::{
    ledger::{Change, Judged, StoredManifest},
    mark::Standing,
};

/// The manifest comes first: where only one of the two is there, and empty, they are being made.
const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS piton_manifest (
  pipeline VARCHAR(120) NOT NULL,
  sink VARCHAR(120) NOT NULL,
  `rows` BIGINT NOT NULL,
  checksum BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  format BIGINT NOT NULL,
  PRIMARY KEY (pipeline, sink)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = ",
    "CREATE TABLE IF NOT EXISTS piton_checkpoints (
  pipeline VARCHAR(120) NOT NULL,
  `partition` VARCHAR(500) NOT NULL,
  sink VARCHAR(120) NOT NULL,
  position LONGTEXT,
  records BIGINT NOT NULL,
  version BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  schema_version BIGINT NOT NULL,
  updated_at VARCHAR(40) NOT NULL,
  kind VARCHAR(120),
  sink_state LONGTEXT,
  checksum BIGINT NOT NULL,
  PRIMARY KEY (pipeline, `partition`, sink)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = ",
];

const TRIGGERS: [&str; 2] = [
    // A person who deletes rows forgets checkpoints on purpose; that is not damage.
    "CREATE TRIGGER IF NOT EXISTS piton_checkpoints_deleted AFTER DELETE ON piton_checkpoints
FOR EACH ROW UPDATE piton_manifest SET `rows` = `rows` - 1, checksum = checksum ^ OLD.checksum
  WHERE pipeline = OLD.pipeline AND sink = OLD.sink",
    // The checksum covers every column, so one that stays where another column changes was not made
    // by this library.
    "CREATE TRIGGER IF NOT EXISTS piton_checkpoints_updated BEFORE UPDATE ON piton_checkpoints
FOR EACH ROW IF OLD.checksum = NEW.checksum AND NOT (
    OLD.position <=> NEW.position AND OLD.records = NEW.records AND OLD.version = NEW.version
    AND OLD.epoch = NEW.epoch AND OLD.schema_version = NEW.schema_version
    AND OLD.updated_at = NEW.updated_at AND OLD.kind <=> NEW.kind
    AND OLD.sink_state <=> NEW.sink_state AND OLD.pipeline = NEW.pipeline
    AND OLD.`partition` = NEW.`partition` AND OLD.sink = NEW.sink) THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a checkpoint cannot be changed by hand: use `piton rewind` to go back, or `piton reset` to begin anew';
END IF",
];

/// What a server says to a user who may make tables and no triggers: by a lack of rights, or
/// because triggers go into a binary log that not everybody may write to.
const NO_TRIGGERS: [u16; 6] = [1044, 1142, 1143, 1227, 1370, 1419];

/// Which of the tables are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    None,
    /// The manifest alone: nobody has finished making them.
    Begun,
    All,
}

fn there(conn: &mut Conn) -> Result<There, LedgerError> {
    let sql = "SELECT table_name FROM information_schema.tables \
               WHERE table_schema = DATABASE() \
               AND table_name IN ('piton_checkpoints', 'piton_manifest')";
    let rows: Vec<Row> = conn.exec(sql, ())?;
    let names: Vec<Option<String>> =
        rows.iter().map(|row| text(row, 0)).collect::<Result<_, _>>().map_err(damaged)?;
    let has = |wanted: &str| names.iter().flatten().any(|name| name.eq_ignore_ascii_case(wanted));
    match (has("piton_checkpoints"), has("piton_manifest")) {
        (false, true) => {
            let rows: Vec<Row> = conn.exec("SELECT 1 FROM piton_manifest LIMIT 1", ())?;
            if rows.is_empty() { Ok(There::Begun) } else { Ledger::are_there(false, true).map(all) }
        }
        (checkpoints, manifest) => Ledger::are_there(checkpoints, manifest).map(all),
    }
}

fn all(are_there: bool) -> There {
    if are_there { There::All } else { There::None }
}

/// Creates the tables that hold checkpoints, if they are not there. The server commits whatever
/// transaction is open, so there must be none.
///
/// Triggers, by which a person who deletes a checkpoint forgets it, are left out where the user may
/// not make them; a checkpoint that is deleted by hand is damage then.
///
/// # Errors
/// [`LedgerError::Damaged`] when only one is there, or what the database fails with.
pub fn create(conn: &mut Conn) -> Result<(), LedgerError> {
    // Whoever makes a trigger waits for all who use its table, and they would wait for it: nobody
    // begins before the tables are finished. Without the lock one of them is told of a deadlock.
    let _: Option<Row> = conn.exec_first(format!("SELECT GET_LOCK({MAKING}, 10)"), ())?;
    let made = if there(conn)? == There::All { Ok(()) } else { make(conn) };
    let _: Option<Row> = conn.exec_first(format!("SELECT RELEASE_LOCK({MAKING})"), ())?;
    made
}

/// The name of the lock under which the tables of a database are made: names are one for all
/// databases of a server.
const MAKING: &str = "CONCAT('piton tables ', LEFT(SHA2(DATABASE(), 256), 40))";

fn make(conn: &mut Conn) -> Result<(), LedgerError> {
    // What tells all characters apart, and spaces at the end.
    let version: Option<Row> = conn.exec_first("SELECT VERSION()", ())?;
    let version = version.map_or(Ok(None), |row| text(&row, 0)).map_err(damaged)?;
    let is_mariadb = version.is_some_and(|version| version.contains("MariaDB"));
    let collation = if is_mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" };
    for table in TABLES {
        conn.query_drop(format!("{table}{collation}"))?;
    }
    for trigger in TRIGGERS {
        match conn.query_drop(trigger) {
            Err(mysql::Error::MySqlError(said)) if NO_TRIGGERS.contains(&said.code) => {}
            made => made?,
        }
    }
    Ok(())
}

/// Locks one pipeline's sink until the end of the transaction, waiting for whoever has it locked.
/// It need not be there yet; the tables must be.
///
/// # Errors
/// What the database fails with, which may be that it took too long.
pub fn lock(conn: &mut Conn, pipeline: &str, sink: &str) -> Result<(), LedgerError> {
    let lock = "INSERT INTO piton_manifest (pipeline, sink, `rows`, checksum, epoch, format) \
                VALUES (?, ?, 0, 0, 0, 0) ON DUPLICATE KEY UPDATE format = format";
    Ok(conn.exec_drop(lock, (pipeline, sink))?)
}

/// Reads and verifies what a database holds; nothing where the tables are not there. Must be
/// called under the [`lock`], or in a transaction that sees one moment.
///
/// # Errors
/// [`LedgerError::Damaged`], [`LedgerError::Newer`], or what the database fails with.
pub fn read(conn: &mut Conn, pipeline: &str, sink: &str) -> Result<Ledger, LedgerError> {
    if there(conn)? != There::All {
        return Ok(Ledger::empty(pipeline, sink));
    }
    let manifest = "SELECT `rows`, checksum, epoch, format FROM piton_manifest \
                    WHERE pipeline = ? AND sink = ?";
    let manifest: Option<Row> = conn.exec_first(manifest, (pipeline, sink))?;
    let manifest = manifest.as_ref().map(read_manifest).transpose()?;
    let rows = "SELECT `partition`, kind, position, records, version, epoch, schema_version, \
                updated_at, sink_state, checksum FROM piton_checkpoints \
                WHERE pipeline = ? AND sink = ?";
    let rows: Vec<Row> = conn.exec(rows, (pipeline, sink))?;
    let rows: Vec<Judged> = rows.iter().map(|row| read_row(row, pipeline, sink)).collect();
    Ledger::verified(pipeline, sink, manifest, rows)
}

/// Locks one pipeline's sink until the end of the transaction, and compares under that lock that
/// nobody else has been here since.
///
/// # Errors
/// [`LedgerError::Fenced`], [`LedgerError::Altered`], or what the database fails with.
pub fn compare(conn: &mut Conn, ledger: &Ledger) -> Result<(), LedgerError> {
    let compare = "SELECT m.`rows`, m.checksum, m.epoch, m.format, \
                   (SELECT MAX(epoch) FROM piton_checkpoints WHERE pipeline = ? AND sink = ?) \
                   FROM piton_manifest m WHERE m.pipeline = ? AND m.sink = ? FOR UPDATE";
    let (pipeline, sink) = (&*ledger.pipeline, &*ledger.sink);
    let found: Option<Row> = conn.exec_first(compare, (pipeline, sink, pipeline, sink))?;
    let read = |row: &Row| {
        let of_rows = number(row, 4).map_err(damaged)?.unwrap_or(0) as u64;
        Ok::<_, LedgerError>((read_manifest(row)?, Epoch(of_rows)))
    };
    ledger.compare(found.as_ref().map(read).transpose()?)
}

/// Writes all rows and the manifest, in a transaction that has the [`lock`].
///
/// # Errors
/// What the database fails with.
pub fn write(conn: &mut Conn, ledger: &mut Ledger) -> Result<(), LedgerError> {
    let (pipeline, sink) = (ledger.pipeline.clone(), ledger.sink.clone());
    let (changes, manifest) = ledger.all();
    store(conn, (&pipeline, &sink), &changes, &manifest)?;
    Ok(())
}

/// Writes new checkpoints over those that are known, and the manifest that [`Ledger::accept`]
/// takes once they are committed, in a transaction that began with [`compare`]. `None` when a row
/// is no longer the known one.
///
/// # Errors
/// What the database fails with.
pub fn advance(
    conn: &mut Conn,
    ledger: &Ledger,
    new: &[Checkpoint],
) -> Result<Option<Manifest>, LedgerError> {
    let (changes, stored) = ledger.advanced(new);
    let is_known = store(conn, (&ledger.pipeline, &ledger.sink), &changes, &stored)?;
    Ok(is_known.then_some(stored.manifest))
}

/// Removes all rows, in a transaction that began with [`compare`]. The manifest stays, for its
/// epoch.
///
/// # Errors
/// What the database fails with.
pub fn forget(conn: &mut Conn, ledger: &Ledger) -> Result<(), LedgerError> {
    let sql = "DELETE FROM piton_checkpoints WHERE pipeline = ? AND sink = ?";
    conn.exec_drop(sql, (&ledger.pipeline, &ledger.sink))?;
    store(conn, (&ledger.pipeline, &ledger.sink), &[], &ledger.none())?;
    Ok(())
}

/// Reads the manifest and one row, in one statement and so at one moment. The tables must be
/// there.
///
/// # Errors
/// [`LedgerError::Damaged`], or what the database fails with.
pub fn standing(conn: &mut Conn, key: &CheckpointKey) -> Result<Standing, LedgerError> {
    // The manifest's columns follow the row's.
    let sql = "SELECT c.`partition`, c.kind, c.position, c.records, c.version, c.epoch, \
               c.schema_version, c.updated_at, c.sink_state, c.checksum, \
               m.`rows`, m.checksum, m.epoch, m.format FROM piton_manifest m \
               LEFT JOIN piton_checkpoints c \
               ON c.pipeline = m.pipeline AND c.sink = m.sink AND c.`partition` = ? \
               WHERE m.pipeline = ? AND m.sink = ?";
    let CheckpointKey { pipeline, partition, sink } = key;
    let Some(row) = conn.exec_first::<Row, _, _>(sql, (partition, pipeline, sink))? else {
        return Standing::verified(None, None);
    };
    let is_there = text(&row, 0).map_err(damaged)?.is_some();
    let of_row = is_there.then(|| read_row(&row, pipeline, sink));
    Standing::verified(Some(manifest_at(&row, 10)?), of_row)
}

/// Locks one pipeline's sink until the end of the transaction, then reads as [`standing`].
///
/// # Errors
/// As [`standing`].
pub fn lock_standing(conn: &mut Conn, key: &CheckpointKey) -> Result<Standing, LedgerError> {
    // By the same sort of statement as writes it afterwards: a weaker lock would have to become
    // that one past others who wait, which is a deadlock.
    lock(conn, &key.pipeline, &key.sink)?;
    standing(conn, key)
}

/// Writes a row and the manifest over what stands there, in a transaction that has the lock under
/// which that was read.
///
/// # Errors
/// What the database fails with.
pub fn mark(conn: &mut Conn, standing: &Standing, new: &Checkpoint) -> Result<(), LedgerError> {
    let of = (&*new.key.pipeline, &*new.key.sink);
    store(conn, of, &[Change { old: None, new }], &standing.with(new))?;
    Ok(())
}

/// Removes rows of a pipeline's sink, all of them for [`WHOLE`](piton_core::claim::WHOLE), locking
/// it. The manifest stays, for its epoch.
///
/// # Errors
/// [`LedgerError::Damaged`], [`LedgerError::Newer`], or what the database fails with.
pub fn remove(
    conn: &mut Conn,
    pipeline: &str,
    sink: &str,
    partitions: &[&str],
) -> Result<(), LedgerError> {
    lock(conn, pipeline, sink)?;
    let mut ledger = read(conn, pipeline, sink)?;
    let sql = "DELETE FROM piton_checkpoints WHERE pipeline = ? AND `partition` = ? AND sink = ?";
    let known = ledger.known(partitions);
    for partition in &known {
        conn.exec_drop(sql, (pipeline, partition, sink))?;
    }
    let left = ledger.without(&known);
    store(conn, (pipeline, sink), &[], &left)?;
    Ok(())
}

/// Writes a row, whatever stands there.
const PUT: &str = "INSERT INTO piton_checkpoints (position, records, version, epoch, \
    schema_version, updated_at, kind, sink_state, checksum, pipeline, `partition`, sink) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE \
    position = VALUES(position), records = VALUES(records), version = VALUES(version), \
    epoch = VALUES(epoch), schema_version = VALUES(schema_version), \
    updated_at = VALUES(updated_at), kind = VALUES(kind), sink_state = VALUES(sink_state), \
    checksum = VALUES(checksum)";

/// Writes a row over one of a known version and of the same epoch.
const REPLACE: &str = "UPDATE piton_checkpoints SET position = ?, records = ?, version = ?, \
    epoch = ?, schema_version = ?, updated_at = ?, kind = ?, sink_state = ?, checksum = ? \
    WHERE pipeline = ? AND `partition` = ? AND sink = ? AND version = ? AND epoch = ?";

const MANIFEST: &str = "INSERT INTO piton_manifest (pipeline, sink, `rows`, checksum, epoch, \
    format) VALUES (?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE `rows` = VALUES(`rows`), \
    checksum = VALUES(checksum), epoch = VALUES(epoch), format = VALUES(format)";

/// False when a row was not the one that was to be written over.
fn store(
    conn: &mut Conn,
    (pipeline, sink): (&str, &str),
    changes: &[Change<'_>],
    stored: &StoredManifest,
) -> Result<bool, LedgerError> {
    for Change { old, new } in changes {
        let mut values = columns(new);
        match old.filter(|_| !fault::known_bad("ignore_epoch")) {
            Some(old) => {
                // Unsigned numbers are kept as signed ones, bit for bit.
                values.extend([(old.version as i64).into(), (new.epoch.0 as i64).into()]);
                conn.exec_drop(REPLACE, Params::Positional(values))?;
                // A version changes, so the row that is found is also changed.
                if conn.affected_rows() != 1 {
                    return Ok(false);
                }
            }
            None => conn.exec_drop(PUT, Params::Positional(values))?,
        }
    }
    let (rows, checksum) = (stored.manifest.rows as i64, stored.manifest.checksum.0);
    let (epoch, format) = (stored.epoch.0 as i64, stored.format as i64);
    conn.exec_drop(MANIFEST, (pipeline, sink, rows, checksum, epoch, format))?;
    Ok(true)
}

/// The columns of a row, in the order of [`PUT`] and [`REPLACE`].
fn columns(new: &Checkpoint) -> Vec<Value> {
    let text = |text: Option<&str>| text.map_or(Value::NULL, Value::from);
    let position = new.position.as_ref();
    vec![
        text(position.map(|p| p.json.as_str())),
        (new.records as i64).into(),
        (new.version as i64).into(),
        (new.epoch.0 as i64).into(),
        (new.schema_version as i64).into(),
        new.updated_at.to_string().into(),
        text(position.map(|p| p.kind.as_str())),
        text(new.sink_state.as_deref()),
        new.checksum().0.into(),
        new.key.pipeline.as_str().into(),
        new.key.partition.as_str().into(),
        new.key.sink.as_str().into(),
    ]
}

fn damaged(what: String) -> LedgerError {
    LedgerError::Damaged { what }
}

fn text(row: &Row, column: usize) -> Result<Option<String>, String> {
    match row.as_ref(column) {
        Some(Value::NULL) => Ok(None),
        Some(Value::Bytes(bytes)) => {
            str::from_utf8(bytes).map(|text| Some(text.to_owned())).map_err(|e| e.to_string())
        }
        _ => Err("a column that is not text".into()),
    }
}

fn number(row: &Row, column: usize) -> Result<Option<i64>, String> {
    match row.as_ref(column) {
        Some(Value::NULL) => Ok(None),
        Some(Value::Int(number)) => Ok(Some(*number)),
        Some(Value::UInt(number)) => Ok(Some(*number as i64)),
        _ => Err("a column that is not a whole number".into()),
    }
}

fn whole(row: &Row, column: usize) -> Result<i64, String> {
    number(row, column)?.ok_or_else(|| "a number that is NULL".into())
}

fn read_manifest(row: &Row) -> Result<StoredManifest, LedgerError> {
    manifest_at(row, 0)
}

/// The manifest in the columns of a row from that one on.
fn manifest_at(row: &Row, first: usize) -> Result<StoredManifest, LedgerError> {
    let number = |column| whole(row, first + column).map_err(damaged);
    Ok(StoredManifest {
        manifest: Manifest { rows: number(0)? as u64, checksum: Checksum(number(1)?) },
        epoch: Epoch(number(2)? as u64),
        format: number(3)? as u64,
    })
}

fn read_row(row: &Row, pipeline: &str, sink: &str) -> Judged {
    let partition = text(row, 0)?.unwrap_or_default();
    let unreadable = |what: &str| format!("the row of partition '{partition}' has {what}");
    let position = match (text(row, 1)?, text(row, 2)?) {
        (Some(kind), Some(json)) => Some(StoredPosition { kind, json }),
        (None, None) => None,
        _ => return Err(unreadable("a position without a kind, or a kind without a position")),
    };
    let checkpoint = Checkpoint {
        position,
        records: whole(row, 3)? as u64,
        version: whole(row, 4)? as u64,
        epoch: Epoch(whole(row, 5)? as u64),
        schema_version: whole(row, 6)? as u64,
        updated_at: text(row, 7)?
            .and_then(|at| at.parse().ok())
            .ok_or_else(|| unreadable("no time in updated_at"))?,
        sink_state: text(row, 8)?,
        key: CheckpointKey::new(pipeline, &*partition, sink),
    };
    Ok((checkpoint, Checksum(whole(row, 9)?)))
}

impl From<mysql::Error> for LedgerError {
    fn from(error: mysql::Error) -> Self {
        Self::Database(error)
    }
}
