//! Everything at once: what `backup`, `export` and `import` move, and what thinning removes.

use std::time::Duration;

use jiff::Timestamp;
use piton_core::{Checkpoint, Snapshot, snapshot::FORMAT};
use rusqlite::{Connection, params};

use super::{
    claims, journal, manifest,
    rows::{self, Change},
    state,
    trouble::Result,
};
use crate::rules::{self, Past};

/// Every name that any table that decides has, so that no row of it is passed over.
fn names(c: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT pipeline FROM manifest UNION SELECT pipeline FROM checkpoints
        UNION SELECT pipeline FROM history UNION SELECT pipeline FROM claims
        UNION SELECT pipeline FROM state UNION SELECT pipeline FROM pipelines
        UNION SELECT pipeline FROM runs UNION SELECT pipeline FROM events
        UNION SELECT pipeline FROM orders UNION SELECT pipeline FROM dead_letters";
    let mut statement = c.prepare(sql)?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(names)
}

/// All that there is, as of one moment, all of it verified.
pub(super) fn take(c: &Connection) -> Result<Snapshot> {
    let mut all =
        Snapshot { format: FORMAT, pipelines: journal::pipelines(c)?, ..Snapshot::default() };
    for name in names(c)? {
        all.checkpoints.extend(rows::load(c, &name)?);
        let history = rows::history(c, &name, u64::MAX)?;
        all.history.extend(history.into_iter().rev().map(|found| found.checkpoint));
        for key in state::keys(c, &name)? {
            let entries = state::all(c, &key)?;
            all.state.extend(entries.into_iter().map(|entry| (key.clone(), entry)));
        }
        let claims = claims::all(c, &name)?.into_iter();
        all.epochs.extend(claims.map(|row| (row.pipeline, row.partition, row.holder.epoch)));
        all.runs.extend(journal::runs(c, &name, u64::MAX)?);
        all.events.extend(journal::events(c, &name, u64::MAX)?);
        all.orders.extend(journal::all_orders(c, &name)?);
        all.dead_letters.extend(journal::dead_letters(c, &name)?);
    }
    all.runs.sort_by_key(|run| run.id);
    all.events.sort_by_key(|event| event.id);
    all.orders.sort_by_key(|order| order.id);
    Ok(all)
}

/// Whether nothing was ever put into the store.
fn is_empty(c: &Connection) -> Result<bool> {
    Ok(names(c)?.is_empty())
}

/// Fills an empty store.
pub(super) fn restore(c: &Connection, snapshot: &Snapshot, at: &str) -> Result<()> {
    rules::check_restore(snapshot, is_empty(c)?, at)?;
    for record in &snapshot.pipelines {
        journal::put_pipeline(c, record)?;
    }
    for row in &snapshot.checkpoints {
        manifest::begin(c, &row.key.pipeline)?;
        let change = Change { old: None, new: Some(row.clone()) };
        rows::change(c, &row.key.pipeline, &[change], false)?;
    }
    for row in &snapshot.history {
        rows::insert(c, rows::INTO_HISTORY, row)?;
    }
    for (key, entry) in &snapshot.state {
        state::apply(c, key, std::slice::from_ref(entry))?;
    }
    for row in rules::restored_claims(snapshot) {
        manifest::begin(c, &row.pipeline)?;
        claims::put(c, None, &row)?;
    }
    for run in &snapshot.runs {
        journal::put_run(c, Some(run.id), run)?;
    }
    for event in &snapshot.events {
        journal::put_event(c, Some(event.id), event)?;
    }
    for order in &snapshot.orders {
        journal::put_order(c, order)?;
    }
    journal::set_aside(c, &snapshot.dead_letters)?;
    Ok(())
}

/// Thins history, and removes old runs, events and applied orders.
pub(super) fn thin(c: &Connection, pipeline: &str, keep: Duration, now: Timestamp) -> Result<()> {
    thin_history(c, pipeline, keep, now)?;
    let runs = journal::runs(c, pipeline, u64::MAX)?;
    for (newer, run) in runs.iter().enumerate() {
        if rules::run_is_old(run, newer, keep, now) {
            c.prepare_cached("DELETE FROM runs WHERE id = ?1")?.execute([run.id as i64])?;
        }
    }
    for event in journal::events(c, pipeline, u64::MAX)? {
        if rules::is_old(event.at, keep, now) {
            c.prepare_cached("DELETE FROM events WHERE id = ?1")?.execute([event.id as i64])?;
        }
    }
    for order in journal::all_orders(c, pipeline)? {
        if order.applied_at.is_some_and(|at| rules::is_old(at, keep, now)) {
            // The newest stays, so that no number is ever given twice.
            let sql = "DELETE FROM orders WHERE id = ?1 AND id < (SELECT max(id) FROM orders)";
            c.prepare_cached(sql)?.execute([order.id as i64])?;
        }
    }
    Ok(())
}

fn thin_history(c: &Connection, pipeline: &str, keep: Duration, now: Timestamp) -> Result<()> {
    let mut history = rows::history(c, pipeline, u64::MAX)?;
    history.reverse();
    let past = |row: &Checkpoint| Past {
        key: row.key.clone(),
        at: row.updated_at,
        position: row.position.clone(),
    };
    let rows: Vec<Past> = history.iter().map(|found| past(&found.checkpoint)).collect();
    let kept = rules::kept(&rows, &journal::orders(c, pipeline)?, keep, now);
    for (found, _) in history.iter().zip(kept).filter(|(_, kept)| !kept) {
        let sql = "DELETE FROM history WHERE rowid = ?1";
        c.prepare_cached(sql)?.execute(params![found.rowid])?;
    }
    Ok(())
}
