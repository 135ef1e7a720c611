//! Everything at once: what `backup`, `export` and `import` move, and what thinning removes.

use std::time::Duration;

use jiff::Timestamp;
use piton_core::{Checkpoint, Snapshot, snapshot::FORMAT};

use super::{
    Row, Sql, Transaction, Value, claims, definitions, letters, manifest, orders,
    rows::{self, Change},
    runs, state,
    trouble::Result,
    value::values,
};
use crate::rules::{self, Past};

/// Every name that any table that decides has, so that no row of it is passed over.
fn names(c: &mut dyn Sql) -> Result<Vec<String>> {
    let sql = "SELECT pipeline FROM manifest UNION SELECT pipeline FROM checkpoints
        UNION SELECT pipeline FROM history UNION SELECT pipeline FROM claims
        UNION SELECT pipeline FROM state UNION SELECT pipeline FROM pipelines
        UNION SELECT pipeline FROM runs UNION SELECT pipeline FROM events
        UNION SELECT pipeline FROM orders UNION SELECT pipeline FROM dead_letters
        ORDER BY pipeline";
    let name = |mut row: Row| row.text(0);
    c.query(sql, values![])?.into_iter().map(name).collect()
}

/// All that there is, as of one moment, all of it verified.
pub(crate) fn take(c: &mut dyn Sql) -> Result<Snapshot> {
    let pipelines = definitions::all(c)?;
    let mut all = Snapshot { format: FORMAT, pipelines, ..Snapshot::default() };
    for name in names(c)? {
        all.checkpoints.extend(rows::load(c, &name)?);
        let history = rows::history(c, &name, u64::MAX)?;
        all.history.extend(history.into_iter().rev().map(|(_, checkpoint)| checkpoint));
        for key in state::keys(c, &name)? {
            let entries = state::all(c, &key)?;
            all.state.extend(entries.into_iter().map(|entry| (key.clone(), entry)));
        }
        let claims = claims::all(c, &name)?.into_iter();
        all.epochs.extend(claims.map(|row| (row.pipeline, row.partition, row.holder.epoch)));
        all.runs.extend(runs::all(c, &name, u64::MAX)?);
        all.events.extend(runs::events(c, &name, u64::MAX)?);
        all.orders.extend(orders::all(c, &name)?);
        all.dead_letters.extend(letters::all(c, &name)?);
    }
    all.runs.sort_by_key(|run| run.id);
    all.events.sort_by_key(|event| event.id);
    all.orders.sort_by_key(|order| order.id);
    Ok(all)
}

/// The pipelines of a snapshot.
pub(crate) fn names_in(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    let checkpoints = snapshot.checkpoints.iter().chain(&snapshot.history);
    let names = checkpoints.map(|row| &*row.key.pipeline);
    names
        .chain(snapshot.pipelines.iter().map(|record| &*record.pipeline))
        .chain(snapshot.state.iter().map(|(key, _)| &*key.pipeline))
        .chain(snapshot.epochs.iter().map(|(pipeline, ..)| &**pipeline))
        .chain(snapshot.runs.iter().map(|run| &*run.pipeline))
        .chain(snapshot.events.iter().map(|event| &*event.pipeline))
        .chain(snapshot.orders.iter().map(|order| &*order.pipeline))
        .chain(snapshot.dead_letters.iter().map(|letter| &*letter.pipeline))
}

/// Fills an empty store.
pub(crate) fn restore(c: &mut dyn Transaction, snapshot: &Snapshot, at: &str) -> Result<()> {
    rules::check_restore(snapshot, names(c)?.is_empty(), at)?;
    for record in &snapshot.pipelines {
        definitions::put(c, record)?;
    }
    for row in &snapshot.checkpoints {
        manifest::begin(c, &row.key.pipeline)?;
        let change = Change { old: None, new: Some(row.clone()) };
        rows::change(c, &row.key.pipeline, &[change], false)?;
    }
    for row in &snapshot.history {
        rows::remember(c, row)?;
    }
    for (key, entry) in &snapshot.state {
        state::apply(c, key, std::slice::from_ref(entry))?;
    }
    for row in rules::restored_claims(snapshot) {
        manifest::begin(c, &row.pipeline)?;
        claims::put(c, None, &row)?;
    }
    for run in &snapshot.runs {
        runs::restore(c, run)?;
    }
    for event in &snapshot.events {
        runs::restore_event(c, event)?;
    }
    for order in &snapshot.orders {
        orders::put(c, order)?;
    }
    for letters in snapshot.dead_letters.chunk_by(|a, b| a.pipeline == b.pipeline) {
        letters::insert(c, &letters[0].pipeline, letters.iter())?;
    }
    Ok(())
}

/// Thins history, and removes old runs, events and applied orders.
pub(crate) fn thin(
    c: &mut dyn Transaction,
    pipeline: &str,
    keep: Duration,
    now: Timestamp,
) -> Result<()> {
    thin_history(c, pipeline, keep, now)?;
    let runs = runs::all(c, pipeline, u64::MAX)?;
    let old = runs.iter().enumerate();
    let old = old.filter(|(newer, run)| rules::run_is_old(run, *newer, keep, now));
    delete(c, "runs", old.map(|(_, run)| run.id))?;
    let events = runs::events(c, pipeline, u64::MAX)?;
    let old = events.iter().filter(|event| rules::is_old(event.at, keep, now));
    delete(c, "events", old.map(|event| event.id))?;
    thin_orders(c, pipeline, keep, now)
}

fn thin_history(c: &mut dyn Sql, pipeline: &str, keep: Duration, now: Timestamp) -> Result<()> {
    let mut history = rows::history(c, pipeline, u64::MAX)?;
    history.reverse();
    let past = |row: &Checkpoint| Past {
        key: row.key.clone(),
        at: row.updated_at,
        position: row.position.clone(),
    };
    let rows: Vec<Past> = history.iter().map(|(_, checkpoint)| past(checkpoint)).collect();
    let kept = rules::kept(&rows, &orders::pending(c, pipeline)?, keep, now);
    let gone = history.iter().zip(kept).filter(|(_, kept)| !kept);
    delete(c, "history", gone.map(|((id, _), _)| *id))
}

fn thin_orders(c: &mut dyn Sql, pipeline: &str, keep: Duration, now: Timestamp) -> Result<()> {
    let mut newest = c.query("SELECT coalesce(max(id), 0) FROM orders", values![])?;
    let newest = newest.first_mut().map_or(Ok(0), |row| row.number(0))?;
    let is_old = |at: Option<Timestamp>| at.is_some_and(|at| rules::is_old(at, keep, now));
    let orders = orders::all(c, pipeline)?;
    // The newest stays, so that no number is ever given twice.
    let old = orders.iter().filter(|order| is_old(order.applied_at) && order.id < newest);
    delete(c, "orders", old.map(|order| order.id))
}

/// So many rows are deleted at once.
const AT_ONCE: usize = 32;

/// Deletes rows by their numbers.
fn delete(c: &mut dyn Sql, table: &str, ids: impl Iterator<Item = u64>) -> Result<()> {
    let sql = format!("DELETE FROM {table} WHERE id IN (?{})", ", ?".repeat(AT_ONCE - 1));
    let ids: Vec<u64> = ids.collect();
    for ids in ids.chunks(AT_ONCE) {
        let mut values: Vec<Value<'_>> = ids.iter().map(|id| Value::from(*id)).collect();
        values.resize(AT_ONCE, values[0]);
        c.execute(&sql, &values)?;
    }
    Ok(())
}
