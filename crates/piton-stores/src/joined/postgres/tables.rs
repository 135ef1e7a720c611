//! The tables of checkpoints in a PostgreSQL database. Every function but [`create`] is one round
//! trip, or one for each table.

use piton_core::{
    Checkpoint, CheckpointKey, Epoch, StoredPosition,
    checksum::{Checksum, Manifest},
    fault,
};
use tokio_postgres::{
    GenericClient, Row, Statement,
    types::{ToSql, Type},
};

use super::{Ledger, LedgerError};
use crate::joined::{
    ledger::{Change, Judged, StoredManifest},
    mark::Standing,
};

/// The order of keys is that of their bytes: an index by a language's rules is wrong after the
/// next upgrade of the system's locales. A manifest is written with every transaction, in place as
/// long as there is room on its page.
const TABLES: &str = r#"
CREATE TABLE piton_checkpoints (
  pipeline text COLLATE "C" NOT NULL,
  partition text COLLATE "C" NOT NULL,
  sink text COLLATE "C" NOT NULL,
  position text,
  records bigint NOT NULL,
  version bigint NOT NULL,
  epoch bigint NOT NULL,
  schema_version bigint NOT NULL,
  updated_at text NOT NULL,
  kind text,
  sink_state text,
  checksum bigint NOT NULL,
  PRIMARY KEY (pipeline, partition, sink)
) WITH (fillfactor = 50);
CREATE TABLE piton_manifest (
  pipeline text COLLATE "C" NOT NULL,
  sink text COLLATE "C" NOT NULL,
  rows bigint NOT NULL,
  checksum bigint NOT NULL,
  epoch bigint NOT NULL,
  format bigint NOT NULL,
  PRIMARY KEY (pipeline, sink)
) WITH (fillfactor = 50);
-- A person who deletes rows forgets checkpoints on purpose; that is not damage.
CREATE FUNCTION piton_checkpoints_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format(
    'UPDATE %I.piton_manifest SET rows = rows - 1, checksum = checksum # $1
     WHERE pipeline = $2 AND sink = $3', TG_TABLE_SCHEMA)
    USING old.checksum, old.pipeline, old.sink;
  RETURN NULL;
END $$;
CREATE TRIGGER piton_checkpoints_deleted AFTER DELETE ON piton_checkpoints
  FOR EACH ROW EXECUTE FUNCTION piton_checkpoints_deleted();
-- The checksum covers every column, so one that stays where another column changes was not made
-- by this library.
CREATE FUNCTION piton_checkpoints_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE 'a checkpoint cannot be changed by hand: use `piton rewind` to go back, or `piton reset` to begin anew';
END $$;
CREATE TRIGGER piton_checkpoints_updated BEFORE UPDATE ON piton_checkpoints
  FOR EACH ROW WHEN (old.checksum = new.checksum AND old IS DISTINCT FROM new)
  EXECUTE FUNCTION piton_checkpoints_updated();
"#;

/// Whoever creates the tables is alone in that: two at once would fail.
const CREATING: &str = "SELECT pg_advisory_xact_lock(hashtext('piton_checkpoints'))";

/// Whether the tables are there.
///
/// # Errors
/// [`LedgerError::Damaged`] when only one is, or what the database fails with.
pub async fn are_there(client: &impl GenericClient) -> Result<bool, LedgerError> {
    // Read from the catalog itself: `to_regclass` may not know yet what another session has made.
    let sql = "SELECT \
        EXISTS (SELECT FROM pg_class WHERE relname = 'piton_checkpoints' AND relkind = 'r' \
                AND pg_table_is_visible(oid)), \
        EXISTS (SELECT FROM pg_class WHERE relname = 'piton_manifest' AND relkind = 'r' \
                AND pg_table_is_visible(oid))";
    let row = client.query_typed_one(sql, &[]).await?;
    Ledger::are_there(row.try_get(0)?, row.try_get(1)?)
}

/// Creates the tables that hold checkpoints, if they are not there, in a transaction.
///
/// # Errors
/// What the database fails with.
pub async fn create(client: &impl GenericClient) -> Result<(), LedgerError> {
    if are_there(client).await? {
        return Ok(());
    }
    client.batch_execute(CREATING).await?;
    if !are_there(client).await? {
        client.batch_execute(TABLES).await?;
    }
    Ok(())
}

/// Locks one pipeline's sink until the end of the transaction, waiting for whoever has it locked.
/// It need not be there yet.
///
/// # Errors
/// What the database fails with, which may be that it took too long.
pub async fn lock(
    client: &impl GenericClient,
    pipeline: &str,
    sink: &str,
) -> Result<(), LedgerError> {
    let insert = "INSERT INTO piton_manifest (pipeline, sink, rows, checksum, epoch, format) \
                  VALUES ($1, $2, 0, 0, 0, 0) ON CONFLICT DO NOTHING";
    let lock = "SELECT 1 FROM piton_manifest WHERE pipeline = $1 AND sink = $2 FOR UPDATE";
    let key = [text(&pipeline), text(&sink)];
    client.query_typed(insert, &key).await?;
    client.query_typed(lock, &key).await?;
    Ok(())
}

/// Reads and verifies what a database holds; nothing where the tables are not there. Must be
/// called under the [`lock`], or in a transaction that sees one moment.
///
/// # Errors
/// [`LedgerError::Damaged`], [`LedgerError::Newer`], or what the database fails with.
pub async fn read(
    client: &impl GenericClient,
    pipeline: &str,
    sink: &str,
) -> Result<Ledger, LedgerError> {
    if !are_there(client).await? {
        return Ok(Ledger::empty(pipeline, sink));
    }
    let key = [text(&pipeline), text(&sink)];
    let manifest = "SELECT rows, checksum, epoch, format FROM piton_manifest \
                    WHERE pipeline = $1 AND sink = $2";
    let manifest = client.query_typed_opt(manifest, &key).await?;
    let manifest = manifest.as_ref().map(read_manifest).transpose()?;
    let rows = "SELECT partition, kind, position, records, version, epoch, schema_version, \
                updated_at, sink_state, checksum FROM piton_checkpoints \
                WHERE pipeline = $1 AND sink = $2";
    let rows = client.query_typed(rows, &key).await?;
    let rows: Vec<Judged> = rows.iter().map(|row| read_row(row, pipeline, sink)).collect();
    Ledger::verified(pipeline, sink, manifest, rows)
}

const COMPARE: &str = "SELECT m.rows, m.checksum, m.epoch, m.format, \
    (SELECT max(epoch) FROM piton_checkpoints WHERE pipeline = $1 AND sink = $2) \
    FROM piton_manifest m WHERE m.pipeline = $1 AND m.sink = $2 FOR UPDATE OF m";

/// The statements of every transaction, understood by the server once for a connection.
#[derive(Debug, Clone)]
pub struct Statements {
    compare: Statement,
    store: Statement,
}

impl Statements {
    /// Has the server understand them. The tables must be there.
    ///
    /// # Errors
    /// What the database fails with.
    pub async fn prepare(client: &impl GenericClient) -> Result<Self, LedgerError> {
        Ok(Self {
            compare: client.prepare_typed(COMPARE, &[Type::TEXT, Type::TEXT]).await?,
            store: client.prepare_typed(STORE, &STORED).await?,
        })
    }
}

/// Locks one pipeline's sink until the end of the transaction, and compares under that lock that
/// nobody else has been here since.
///
/// # Errors
/// [`LedgerError::Fenced`], [`LedgerError::Altered`], or what the database fails with.
pub async fn compare(
    client: &impl GenericClient,
    statements: &Statements,
    ledger: &Ledger,
) -> Result<(), LedgerError> {
    let key: [&(dyn ToSql + Sync); 2] = [&ledger.pipeline, &ledger.sink];
    let found = client.query_opt(&statements.compare, &key).await?;
    let read = |row: &Row| {
        let of_rows = row.try_get::<_, Option<i64>>(4)?.unwrap_or(0) as u64;
        Ok::<_, LedgerError>((read_manifest(row)?, Epoch(of_rows)))
    };
    ledger.compare(found.as_ref().map(read).transpose()?)
}

/// Writes all rows and the manifest, in a transaction that has the [`lock`].
///
/// # Errors
/// What the database fails with.
pub async fn write(client: &impl GenericClient, ledger: &mut Ledger) -> Result<(), LedgerError> {
    let (pipeline, sink) = (ledger.pipeline.clone(), ledger.sink.clone());
    let (changes, manifest) = ledger.all();
    store(client, None, (&pipeline, &sink), &changes, &manifest).await?;
    Ok(())
}

/// Writes new checkpoints over those that are known, and the manifest that [`Ledger::accept`]
/// takes once they are committed, in a transaction that began with [`compare`]. `None` when a row
/// is no longer the known one.
///
/// # Errors
/// What the database fails with.
pub async fn advance(
    client: &impl GenericClient,
    statements: &Statements,
    ledger: &Ledger,
    new: &[Checkpoint],
) -> Result<Option<Manifest>, LedgerError> {
    let (changes, stored) = ledger.advanced(new);
    let of = (&*ledger.pipeline, &*ledger.sink);
    let is_known = store(client, Some(&statements.store), of, &changes, &stored).await?;
    Ok(is_known.then_some(stored.manifest))
}

/// Removes all rows, in a transaction that began with [`compare`]. The manifest stays, for its
/// epoch.
///
/// # Errors
/// What the database fails with.
pub async fn forget(client: &impl GenericClient, ledger: &Ledger) -> Result<(), LedgerError> {
    let sql = "DELETE FROM piton_checkpoints WHERE pipeline = $1 AND sink = $2";
    client.query_typed(sql, &[text(&ledger.pipeline), text(&ledger.sink)]).await?;
    store(client, None, (&ledger.pipeline, &ledger.sink), &[], &ledger.none()).await?;
    Ok(())
}

/// What is there of one mark, in one statement and so at one moment. The manifest's columns follow
/// the row's.
const STANDING: &str = "SELECT c.partition, c.kind, c.position, c.records, c.version, c.epoch, \
    c.schema_version, c.updated_at, c.sink_state, c.checksum, \
    m.rows, m.checksum, m.epoch, m.format FROM piton_manifest m \
    LEFT JOIN piton_checkpoints c \
    ON c.pipeline = m.pipeline AND c.sink = m.sink AND c.partition = $3 \
    WHERE m.pipeline = $1 AND m.sink = $2";

/// Reads the manifest and one row. The tables must be there.
///
/// # Errors
/// [`LedgerError::Damaged`], or what the database fails with.
pub async fn standing(
    client: &impl GenericClient,
    key: &CheckpointKey,
) -> Result<Standing, LedgerError> {
    let values = [text(&key.pipeline), text(&key.sink), text(&key.partition)];
    let Some(row) = client.query_typed_opt(STANDING, &values).await? else {
        return Standing::verified(None, None);
    };
    let is_there = row.try_get::<_, Option<&str>>(0)?.is_some();
    let of_row = is_there.then(|| read_row(&row, &key.pipeline, &key.sink));
    Standing::verified(Some(manifest_at(&row, 10)?), of_row)
}

/// Locks one pipeline's sink until the end of the transaction, then reads as [`standing`].
///
/// # Errors
/// As [`standing`].
pub async fn lock_standing(
    client: &impl GenericClient,
    key: &CheckpointKey,
) -> Result<Standing, LedgerError> {
    let lock = "SELECT 1 FROM piton_manifest WHERE pipeline = $1 AND sink = $2 FOR UPDATE";
    client.query_typed(lock, &[text(&key.pipeline), text(&key.sink)]).await?;
    standing(client, key).await
}

/// Writes a row and the manifest over what stands there, in a transaction that has the lock under
/// which that was read.
///
/// # Errors
/// What the database fails with.
pub async fn mark(
    client: &impl GenericClient,
    standing: &Standing,
    new: &Checkpoint,
) -> Result<(), LedgerError> {
    let of = (&*new.key.pipeline, &*new.key.sink);
    store(client, None, of, &[Change { old: None, new }], &standing.with(new)).await?;
    Ok(())
}

/// Removes rows of a pipeline's sink, all of them for [`WHOLE`](piton_core::claim::WHOLE), locking
/// it. The manifest stays, for its epoch.
///
/// # Errors
/// [`LedgerError::Damaged`], [`LedgerError::Newer`], or what the database fails with.
pub async fn remove(
    client: &impl GenericClient,
    pipeline: &str,
    sink: &str,
    partitions: &[&str],
) -> Result<(), LedgerError> {
    lock(client, pipeline, sink).await?;
    let mut ledger = read(client, pipeline, sink).await?;
    let sql = "DELETE FROM piton_checkpoints \
               WHERE pipeline = $1 AND sink = $2 AND partition = ANY($3)";
    let known = ledger.known(partitions);
    let names: (&(dyn ToSql + Sync), Type) = (&known, Type::TEXT_ARRAY);
    client.query_typed(sql, &[text(&pipeline), text(&sink), names]).await?;
    let left = ledger.without(&known);
    store(client, None, (pipeline, sink), &[], &left).await?;
    Ok(())
}

/// Writes rows and manifest with one statement. A row with a known version is written over only
/// where that version and the epoch stand; one without, whatever stands there.
const STORE: &str = "\
WITH new AS (
  SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::bigint[], $13::bigint[])
    AS new (partition, kind, position, records, version, epoch, schema_version, updated_at,
      sink_state, checksum, old_version)
), written AS (
  INSERT INTO piton_checkpoints AS c (pipeline, partition, sink, position, records, version, epoch,
    schema_version, updated_at, kind, sink_state, checksum)
  SELECT $1, partition, $2, position, records, version, epoch, schema_version, updated_at, kind,
    sink_state, checksum
  FROM new
  WHERE old_version IS NULL OR EXISTS (
    SELECT FROM piton_checkpoints c
    WHERE c.pipeline = $1 AND c.partition = new.partition AND c.sink = $2)
  ON CONFLICT (pipeline, partition, sink) DO UPDATE SET
    position = excluded.position, records = excluded.records, version = excluded.version,
    epoch = excluded.epoch, schema_version = excluded.schema_version,
    updated_at = excluded.updated_at, kind = excluded.kind, sink_state = excluded.sink_state,
    checksum = excluded.checksum
  WHERE $18 OR EXISTS (
    SELECT FROM new
    WHERE new.partition = c.partition
      AND (old_version IS NULL OR (old_version = c.version AND new.epoch = c.epoch)))
  RETURNING 1
), manifest AS (
  INSERT INTO piton_manifest (pipeline, sink, rows, checksum, epoch, format)
  VALUES ($1, $2, $14, $15, $16, $17)
  ON CONFLICT (pipeline, sink) DO UPDATE SET
    rows = excluded.rows, checksum = excluded.checksum, epoch = excluded.epoch,
    format = excluded.format
  RETURNING 1
)
SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM manifest)";

/// The types of its parameters.
const STORED: [Type; 18] = [
    Type::TEXT,
    Type::TEXT,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8,
    Type::INT8,
    Type::INT8,
    Type::INT8,
    Type::BOOL,
];

/// The rows of [`STORE`], a column each.
#[derive(Default)]
struct Columns<'a> {
    partition: Vec<&'a str>,
    kind: Vec<Option<&'a str>>,
    position: Vec<Option<&'a str>>,
    records: Vec<i64>,
    version: Vec<i64>,
    epoch: Vec<i64>,
    schema_version: Vec<i64>,
    updated_at: Vec<String>,
    sink_state: Vec<Option<&'a str>>,
    checksum: Vec<i64>,
    old_version: Vec<Option<i64>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, Change { old, new }: &Change<'a>) {
        let position = new.position.as_ref();
        self.partition.push(&new.key.partition);
        self.kind.push(position.map(|p| p.kind.as_str()));
        self.position.push(position.map(|p| p.json.as_str()));
        // Unsigned numbers are kept as signed ones, bit for bit.
        self.records.push(new.records as i64);
        self.version.push(new.version as i64);
        self.epoch.push(new.epoch.0 as i64);
        self.schema_version.push(new.schema_version as i64);
        self.updated_at.push(new.updated_at.to_string());
        self.sink_state.push(new.sink_state.as_deref());
        self.checksum.push(new.checksum().0);
        self.old_version.push(old.map(|old| old.version as i64));
    }
}

/// False when a row was not the one that was to be written over.
async fn store(
    client: &impl GenericClient,
    statement: Option<&Statement>,
    (pipeline, sink): (&str, &str),
    changes: &[Change<'_>],
    stored: &StoredManifest,
) -> Result<bool, LedgerError> {
    let mut columns = Columns::default();
    changes.iter().for_each(|change| columns.push(change));
    let numbers = [
        stored.manifest.rows as i64,
        stored.manifest.checksum.0,
        stored.epoch.0 as i64,
        stored.format as i64,
    ];
    let ignores_epoch = fault::known_bad("ignore_epoch");
    let parameters: [&(dyn ToSql + Sync); 18] = [
        &pipeline,
        &sink,
        &columns.partition,
        &columns.kind,
        &columns.position,
        &columns.records,
        &columns.version,
        &columns.epoch,
        &columns.schema_version,
        &columns.updated_at,
        &columns.sink_state,
        &columns.checksum,
        &columns.old_version,
        &numbers[0],
        &numbers[1],
        &numbers[2],
        &numbers[3],
        &ignores_epoch,
    ];
    let row = match statement {
        Some(statement) => client.query_one(statement, &parameters).await?,
        None => {
            let typed: Vec<_> = parameters.into_iter().zip(STORED).collect();
            client.query_typed_one(STORE, &typed).await?
        }
    };
    Ok(row.try_get::<_, i64>(0)? == changes.len() as i64 && row.try_get::<_, i64>(1)? == 1)
}

fn text(value: &(impl ToSql + Sync)) -> (&(dyn ToSql + Sync), Type) {
    (value, Type::TEXT)
}

fn number(row: &Row, column: usize) -> Result<u64, tokio_postgres::Error> {
    row.try_get::<_, i64>(column).map(|number| number as u64)
}

fn read_manifest(row: &Row) -> Result<StoredManifest, LedgerError> {
    manifest_at(row, 0)
}

/// The manifest in the columns of a row from that one on.
fn manifest_at(row: &Row, first: usize) -> Result<StoredManifest, LedgerError> {
    let checksum = Checksum(row.try_get(first + 1)?);
    Ok(StoredManifest {
        manifest: Manifest { rows: number(row, first)?, checksum },
        epoch: Epoch(number(row, first + 2)?),
        format: number(row, first + 3)?,
    })
}

fn read_row(row: &Row, pipeline: &str, sink: &str) -> Judged {
    let wrong = |e: tokio_postgres::Error| e.to_string();
    let partition: String = row.try_get(0).map_err(wrong)?;
    let unreadable = |what: &str| format!("the row of partition '{partition}' has {what}");
    let kind: Option<String> = row.try_get(1).map_err(wrong)?;
    let position = match (kind, row.try_get(2).map_err(wrong)?) {
        (Some(kind), Some(json)) => Some(StoredPosition { kind, json }),
        (None, None) => None,
        _ => return Err(unreadable("a position without a kind, or a kind without a position")),
    };
    let updated_at: String = row.try_get(7).map_err(wrong)?;
    let checkpoint = Checkpoint {
        position,
        records: number(row, 3).map_err(wrong)?,
        version: number(row, 4).map_err(wrong)?,
        epoch: Epoch(number(row, 5).map_err(wrong)?),
        schema_version: number(row, 6).map_err(wrong)?,
        updated_at: updated_at.parse().map_err(|_| unreadable("no time in updated_at"))?,
        sink_state: row.try_get(8).map_err(wrong)?,
        key: CheckpointKey::new(pipeline, partition, sink),
    };
    Ok((checkpoint, Checksum(row.try_get(9).map_err(wrong)?)))
}

impl From<tokio_postgres::Error> for LedgerError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}
