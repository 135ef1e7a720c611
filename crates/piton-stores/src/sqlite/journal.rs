//! What happened and what is wanted: definitions, orders, runs, events and dead letters.

use jiff::Timestamp;
use piton_core::{
    Claim, Control, DeadLetter, Epoch, Event, Order, OrderKind, Output, Owner, PipelineRecord, Run,
    RunEnd, StoreError, StoredPosition,
    checksum::{Checksum, Manifest},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    claims,
    manifest::{self, Holds, Shelf},
    rows::{altered, maybe_time, number, text, time},
    schema::SHELL,
    trouble::{Result, Trouble},
    worker::{Done, Worker},
};
use crate::rules;

/// Reads a word at rest.
fn word<T>(row: &Row<'_>, column: usize, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
    let word = text(row, column)?;
    parse(&word).ok_or_else(|| Trouble::Damage(format!("'{word}' is no word that this format has")))
}

fn maybe_word<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => word(row, column, parse).map(Some),
    }
}

/// SQLite's LIMIT is signed.
fn limited(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

// Definitions.

/// A pipeline's definition, compared with its manifest.
pub(super) fn pipeline(c: &Connection, pipeline: &str) -> Result<Option<PipelineRecord>> {
    let sql = "SELECT source, transforms, sinks, control, file, checksum FROM pipelines
        WHERE pipeline = ?1";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([pipeline])?;
    let (mut found, mut sum) = (None, Manifest::default());
    if let Some(row) = rows.next()? {
        let record = PipelineRecord {
            pipeline: pipeline.to_owned(),
            source: text(row, 0)?,
            transforms: text(row, 1)?,
            sinks: text(row, 2)?,
            control: word(row, 3, Control::parse)?,
            file: row.get(4)?,
        };
        let checksum = Checksum(row.get(5)?);
        if record.checksum() != checksum {
            return Err(altered("pipelines", &pipeline));
        }
        sum = sum.with(checksum);
        found = Some(record);
    }
    manifest::check(c, Shelf::of(Holds::Definition, pipeline), sum)?;
    Ok(found)
}

/// Every definition, and none that the manifest has and the table lacks.
pub(super) fn pipelines(c: &Connection) -> Result<Vec<PipelineRecord>> {
    let sql = "SELECT pipeline FROM pipelines
        UNION SELECT pipeline FROM manifest WHERE holds = 'definition'";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.extend(pipeline(c, &text(row, 0)?)?);
    }
    Ok(records)
}

pub(super) fn put_pipeline(c: &Connection, record: &PipelineRecord) -> Result<()> {
    let old = pipeline(c, &record.pipeline)?;
    manifest::begin(c, &record.pipeline)?;
    let checksum = record.checksum();
    let sql = "INSERT OR REPLACE INTO pipelines
        (pipeline, source, transforms, sinks, control, file, checksum)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    c.prepare_cached(sql)?.execute(params![
        record.pipeline,
        record.source,
        record.transforms,
        record.sinks,
        record.control.as_str(),
        record.file,
        checksum.0,
    ])?;
    let shelf = Shelf::of(Holds::Definition, &record.pipeline);
    manifest::change(c, shelf, |manifest| match old {
        Some(old) => manifest.replacing(old.checksum(), checksum),
        None => manifest.with(checksum),
    })
}

pub(super) fn register(worker: &mut Worker, record: PipelineRecord) -> Result<(), StoreError> {
    worker.write(|c, _| {
        let control = pipeline(c, &record.pipeline)?.map_or(record.control, |old| old.control);
        put_pipeline(c, &PipelineRecord { control, ..record })?;
        Ok(Done::Commit(()))
    })
}

pub(super) fn set_control(
    worker: &mut Worker,
    name: &str,
    control: Control,
    event: &Event,
    at: &str,
) -> Result<(), StoreError> {
    worker.write(|c, _| {
        let record = pipeline(c, name)?.ok_or_else(|| rules::unregistered(name, at))?;
        put_pipeline(c, &PipelineRecord { control, ..record })?;
        record_event(c, event)?;
        Ok(Done::Commit(()))
    })
}

// Orders.

const ORDERS: &str = "SELECT id, pipeline, partition, sink, summary, kind, position_kind, position,
    records, sink_state, output, who, at, applied_at, checksum FROM orders WHERE pipeline = ?1
    ORDER BY id";

fn read_order(row: &Row<'_>) -> Result<(Order, Option<Checksum>)> {
    let position = match (row.get(6)?, row.get(7)?) {
        (Some(kind), Some(json)) => Some(StoredPosition { kind, json }),
        _ => None,
    };
    let order = Order {
        id: number(row, 0)?,
        pipeline: text(row, 1)?,
        partition: text(row, 2)?,
        sink: text(row, 3)?,
        kind: word(row, 5, OrderKind::parse)?,
        position,
        records: number(row, 8)?,
        sink_state: row.get(9)?,
        output: maybe_word(row, 10, Output::parse)?,
        who: text(row, 11)?,
        at: time(row, 12)?,
        applied_at: maybe_time(row, 13)?,
    };
    let checksum: Option<i64> = row.get(14)?;
    let vouched = match checksum {
        Some(checksum) => sealed(&order).0 == checksum,
        // A trigger has no checksum function; what it writes is the same but for what the
        // summary says again.
        None => is_shell_reset(&order),
    };
    if !vouched || text(row, 4)? != summary(&order, &text(row, 12)?) {
        return Err(altered("orders", &order.id));
    }
    Ok((order, checksum.map(Checksum)))
}

fn is_shell_reset(order: &Order) -> bool {
    order.kind == OrderKind::Reset
        && order.who == SHELL
        && order.records == 0
        && (&order.position, &order.sink_state, order.output) == (&None, &None, None)
}

/// What a row says twice, so that one of both cannot be altered alone.
fn summary(order: &Order, at: &str) -> String {
    let Order { id, pipeline, partition, sink, kind, .. } = order;
    format!("{id}: {} {pipeline} / {partition} / {sink} at {at}", kind.as_str())
}

/// The checksum of an order's row: once it is applied, of that moment, too.
fn sealed(order: &Order) -> Checksum {
    let checksum = order.checksum();
    match order.applied_at {
        Some(at) => Checksum::build().number(checksum.0 as u64).text(&at.to_string()).finish(),
        None => checksum,
    }
}

/// All orders of a pipeline, oldest first; those that are pending compared with the manifest.
pub(super) fn all_orders(c: &Connection, pipeline: &str) -> Result<Vec<Order>> {
    let mut statement = c.prepare_cached(ORDERS)?;
    let mut rows = statement.query([pipeline])?;
    let (mut orders, mut pending) = (Vec::new(), Manifest::default());
    while let Some(row) = rows.next()? {
        let (order, checksum) = read_order(row)?;
        if order.applied_at.is_none() {
            pending = pending.with(checksum.unwrap_or_default());
        }
        orders.push(order);
    }
    manifest::check(c, Shelf::of(Holds::Orders, pipeline), pending)?;
    Ok(orders)
}

/// The orders that are not applied yet.
pub(super) fn orders(c: &Connection, pipeline: &str) -> Result<Vec<Order>> {
    let mut orders = all_orders(c, pipeline)?;
    orders.retain(|order| order.applied_at.is_none());
    Ok(orders)
}

/// Writes a new order. Its number is above all before: sinks remember which they have applied.
pub(super) fn give(c: &Connection, order: Order) -> Result<()> {
    let id =
        c.query_row("SELECT coalesce(max(id), 0) + 1 FROM orders", [], |row| number(row, 0))?;
    put_order(c, &Order { id, applied_at: None, ..order })
}

pub(super) fn put_order(c: &Connection, order: &Order) -> Result<()> {
    let sql = "INSERT INTO orders (id, pipeline, partition, sink, summary, kind, position_kind,
        position, records, sink_state, output, who, at, applied_at, checksum)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    let (checksum, at) = (sealed(order), order.at.to_string());
    c.prepare_cached(sql)?.execute(params![
        order.id as i64,
        order.pipeline,
        order.partition,
        order.sink,
        summary(order, &at),
        order.kind.as_str(),
        order.position.as_ref().map(|position| &position.kind),
        order.position.as_ref().map(|position| &position.json),
        order.records as i64,
        order.sink_state,
        order.output.map(Output::as_str),
        order.who,
        at,
        order.applied_at.map(|at| at.to_string()),
        checksum.0,
    ])?;
    if order.applied_at.is_some() {
        return Ok(());
    }
    let shelf = Shelf::of(Holds::Orders, &order.pipeline);
    manifest::change(c, shelf, |manifest| manifest.with(checksum))
}

pub(super) fn applied(
    worker: &mut Worker,
    claim: &Claim,
    ids: &[u64],
    now: Timestamp,
) -> Result<(), StoreError> {
    let name = &claim.pipeline;
    worker.write(|c, _| {
        let fence = claims::fence(c, claim)?;
        if fence > claim.epoch {
            return Err(Trouble::Store(rules::fenced(name, fence)));
        }
        let there = all_orders(c, name)?;
        for id in ids {
            let order = there.iter().find(|order| order.id == *id);
            let order = order.ok_or_else(|| rules::no_order(*id, name))?;
            if order.applied_at.is_none() {
                mark_applied(c, order, now)?;
            }
        }
        Ok(Done::Commit(()))
    })
}

fn mark_applied(c: &Connection, order: &Order, now: Timestamp) -> Result<()> {
    let pending: Option<i64> = c
        .prepare_cached("SELECT checksum FROM orders WHERE id = ?1")?
        .query_row([order.id as i64], |row| row.get(0))?;
    let sealed = sealed(&Order { applied_at: Some(now), ..order.clone() });
    let sql = "UPDATE orders SET applied_at = ?2, checksum = ?3 WHERE id = ?1";
    let values = params![order.id as i64, now.to_string(), sealed.0];
    c.prepare_cached(sql)?.execute(values)?;
    let shelf = Shelf::of(Holds::Orders, &order.pipeline);
    let pending = Checksum(pending.unwrap_or_default());
    manifest::change(c, shelf, |manifest| manifest.without(pending))
}

// Events.

pub(super) fn record_event(c: &Connection, event: &Event) -> Result<()> {
    put_event(c, None, event)
}

/// Writes an event, with its number if it has one already.
pub(super) fn put_event(c: &Connection, id: Option<u64>, event: &Event) -> Result<()> {
    let sql = "INSERT INTO events (id, pipeline, at, who, what, detail)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let id = id.map(|id| id as i64);
    let at = event.at.to_string();
    let values = params![id, event.pipeline, at, event.who, event.what, event.detail];
    c.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

pub(super) fn events(c: &Connection, pipeline: &str, limit: u64) -> Result<Vec<Event>> {
    let sql = "SELECT id, pipeline, at, who, what, detail FROM events WHERE pipeline = ?1
        ORDER BY id DESC LIMIT ?2";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query(params![pipeline, limited(limit)])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(Event {
            id: number(row, 0)?,
            pipeline: text(row, 1)?,
            at: time(row, 2)?,
            who: text(row, 3)?,
            what: text(row, 4)?,
            detail: text(row, 5)?,
        });
    }
    Ok(events)
}

// Runs.

pub(super) fn begin_run(c: &Connection, run: &Run) -> Result<u64> {
    put_run(c, None, run)?;
    Ok(c.last_insert_rowid() as u64)
}

/// Writes a run, with its number if it has one already.
pub(super) fn put_run(c: &Connection, id: Option<u64>, run: &Run) -> Result<()> {
    let sql = "INSERT INTO runs (id, pipeline, epoch, owner_host, owner_pid, started_at, ended_at,
        ended_as, records, error, progress)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let id = id.map(|id| id as i64);
    c.prepare_cached(sql)?.execute(params![
        id,
        run.pipeline,
        run.epoch.0 as i64,
        run.owner.host,
        run.owner.pid,
        run.started_at.to_string(),
        run.ended_at.map(|at| at.to_string()),
        run.end.map(RunEnd::as_str),
        run.records as i64,
        run.error,
        run.progress,
    ])?;
    Ok(())
}

pub(super) fn update_run(c: &Connection, run: &Run) -> Result<()> {
    // A run that its heir has ended stays ended, whatever its figures still do.
    let sql = "UPDATE runs SET ended_at = ?2, ended_as = ?3, records = ?4, error = ?5,
        progress = ?6 WHERE id = ?1 AND (ended_at IS NULL OR ?2 IS NOT NULL)";
    let changed = c.prepare_cached(sql)?.execute(params![
        run.id as i64,
        run.ended_at.map(|at| at.to_string()),
        run.end.map(RunEnd::as_str),
        run.records as i64,
        run.error,
        run.progress,
    ])?;
    if changed > 0 {
        return Ok(());
    }
    let there = "SELECT 1 FROM runs WHERE id = ?1";
    let there = c.query_row(there, [run.id as i64], |_| Ok(())).optional()?;
    there.ok_or_else(|| Trouble::Store(rules::no_run(run.id)))
}

pub(super) fn runs(c: &Connection, pipeline: &str, limit: u64) -> Result<Vec<Run>> {
    let sql = "SELECT id, pipeline, epoch, owner_host, owner_pid, started_at, ended_at, ended_as,
        records, error, progress FROM runs WHERE pipeline = ?1 ORDER BY id DESC LIMIT ?2";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query(params![pipeline, limited(limit)])?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(Run {
            id: number(row, 0)?,
            pipeline: text(row, 1)?,
            epoch: Epoch(number(row, 2)?),
            owner: Owner { host: text(row, 3)?, pid: row.get(4)? },
            started_at: time(row, 5)?,
            ended_at: maybe_time(row, 6)?,
            end: maybe_word(row, 7, RunEnd::parse)?,
            records: number(row, 8)?,
            error: row.get(9)?,
            progress: row.get(10)?,
        });
    }
    Ok(runs)
}

// Dead letters.

/// Inserts each letter that is not there yet. Returns how many were new.
pub(super) fn set_aside(c: &Connection, letters: &[DeadLetter]) -> Result<u64> {
    let sql = "INSERT OR IGNORE INTO dead_letters
        (pipeline, sink, id, partition, place, reason, record, at, checksum)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let mut statement = c.prepare_cached(sql)?;
    let mut new = 0;
    for letter in letters {
        let checksum = letter.checksum();
        let inserted = statement.execute(params![
            letter.pipeline,
            letter.sink,
            letter.id,
            letter.partition,
            letter.place,
            letter.reason,
            letter.record,
            letter.at.to_string(),
            checksum.0,
        ])?;
        if inserted > 0 {
            let shelf = Shelf::of(Holds::DeadLetters, &letter.pipeline);
            manifest::change(c, shelf, |manifest| manifest.with(checksum))?;
            new += 1;
        }
    }
    Ok(new)
}

/// A pipeline's dead letters, compared with their manifest, oldest first.
pub(super) fn dead_letters(c: &Connection, pipeline: &str) -> Result<Vec<DeadLetter>> {
    let sql = "SELECT pipeline, sink, id, partition, place, reason, record, at, checksum
        FROM dead_letters WHERE pipeline = ?1 ORDER BY rowid";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([pipeline])?;
    let (mut letters, mut sum) = (Vec::new(), Manifest::default());
    while let Some(row) = rows.next()? {
        let letter = DeadLetter {
            pipeline: text(row, 0)?,
            sink: text(row, 1)?,
            id: text(row, 2)?,
            partition: text(row, 3)?,
            place: text(row, 4)?,
            reason: text(row, 5)?,
            record: text(row, 6)?,
            at: time(row, 7)?,
        };
        let checksum = Checksum(row.get(8)?);
        if letter.checksum() != checksum {
            return Err(altered("dead_letters", &letter.id));
        }
        sum = sum.with(checksum);
        letters.push(letter);
    }
    manifest::check(c, Shelf::of(Holds::DeadLetters, pipeline), sum)?;
    Ok(letters)
}

/// Removes letters by sink and id. Returns how many there were.
pub(super) fn drop_letters(
    c: &Connection,
    pipeline: &str,
    ids: &[(String, String)],
) -> Result<u64> {
    let sql = "DELETE FROM dead_letters WHERE pipeline = ?1 AND sink = ?2 AND id = ?3
        RETURNING checksum";
    let mut statement = c.prepare_cached(sql)?;
    let (mut dropped, mut sum) = (0, Checksum::default());
    for (sink, id) in ids {
        let found = statement.query_row([pipeline, sink, id], |row| row.get(0)).optional()?;
        if let Some(checksum) = found {
            sum = sum.combine(Checksum(checksum));
            dropped += 1;
        }
    }
    manifest::change(c, Shelf::of(Holds::DeadLetters, pipeline), |manifest| Manifest {
        rows: manifest.rows.saturating_sub(dropped),
        checksum: manifest.checksum.combine(sum),
    })?;
    Ok(dropped)
}
