//! What happened: runs and events.

use piton_core::{Epoch, Event, Owner, Run, RunEnd};

use super::{
    Row, Sql, Transaction, claims,
    rows::limited,
    trouble::{Result, Trouble},
    value::values,
};
use crate::rules;

/// Begins a run and returns its number.
pub(crate) fn begin(c: &mut dyn Transaction, run: &Run) -> Result<u64> {
    let sql = "INSERT INTO runs (pipeline, epoch, owner_host, owner_pid, started_at, ended_at,
        ended_as, records, error, progress) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    c.insert(
        sql,
        values![
            &run.pipeline,
            run.epoch,
            &run.owner.host,
            run.owner.pid,
            &run.started_at.to_string(),
            &run.ended_at.map(|at| at.to_string()),
            run.end.map(RunEnd::as_str),
            run.records,
            &run.error,
            &run.progress,
        ],
    )
}

/// Writes a run with the number that it had elsewhere.
pub(crate) fn restore(c: &mut dyn Sql, run: &Run) -> Result<()> {
    let sql = "INSERT INTO runs (id, pipeline, epoch, owner_host, owner_pid, started_at, ended_at,
        ended_as, records, error, progress) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    c.execute(
        sql,
        values![
            run.id,
            &run.pipeline,
            run.epoch,
            &run.owner.host,
            run.owner.pid,
            &run.started_at.to_string(),
            &run.ended_at.map(|at| at.to_string()),
            run.end.map(RunEnd::as_str),
            run.records,
            &run.error,
            &run.progress,
        ],
    )?;
    Ok(())
}

/// Replaces a run's figures, or ends it.
pub(crate) fn update(c: &mut dyn Sql, run: &Run) -> Result<()> {
    let sql = if run.ended_at.is_some() {
        "UPDATE runs SET ended_at = ?, ended_as = ?, records = ?, error = ?, progress = ?
        WHERE id = ?"
    } else {
        // A run that its heir has ended stays ended, whatever its figures still do.
        "UPDATE runs SET ended_at = ?, ended_as = ?, records = ?, error = ?, progress = ?
        WHERE id = ? AND ended_at IS NULL"
    };
    if c.execute(
        sql,
        values![
            &run.ended_at.map(|at| at.to_string()),
            run.end.map(RunEnd::as_str),
            run.records,
            &run.error,
            &run.progress,
            run.id,
        ],
    )? > 0
    {
        return Ok(());
    }
    let there = c.query("SELECT id FROM runs WHERE id = ?", values![run.id])?;
    if there.is_empty() { Err(Trouble::Store(rules::no_run(run.id))) } else { Ok(()) }
}

/// A pipeline's runs, newest first.
pub(crate) fn all(c: &mut dyn Sql, pipeline: &str, limit: u64) -> Result<Vec<Run>> {
    let sql = "SELECT id, pipeline, epoch, owner_host, owner_pid, started_at, ended_at, ended_as,
        records, error, progress FROM runs WHERE pipeline = ? ORDER BY id DESC LIMIT ?";
    let read = |mut row: Row| {
        Ok(Run {
            id: row.number(0)?,
            pipeline: row.text(1)?,
            epoch: Epoch(row.number(2)?),
            owner: Owner { host: row.text(3)?, pid: claims::pid(&mut row, 4)? },
            started_at: row.time(5)?,
            ended_at: row.maybe_time(6)?,
            end: row.maybe_word(7, RunEnd::parse)?,
            records: row.number(8)?,
            error: row.maybe_text(9)?,
            progress: row.maybe_text(10)?,
        })
    };
    c.query(sql, values![pipeline, limited(limit)])?.into_iter().map(read).collect()
}

/// Records an event.
pub(crate) fn record(c: &mut dyn Sql, event: &Event) -> Result<()> {
    let sql = "INSERT INTO events (pipeline, at, who, what, detail) VALUES (?, ?, ?, ?, ?)";
    let at = event.at.to_string();
    c.execute(sql, values![&event.pipeline, &at, &event.who, &event.what, &event.detail])?;
    Ok(())
}

/// Writes an event with the number that it had elsewhere.
pub(crate) fn restore_event(c: &mut dyn Sql, event: &Event) -> Result<()> {
    let sql = "INSERT INTO events (id, pipeline, at, who, what, detail)
        VALUES (?, ?, ?, ?, ?, ?)";
    let at = event.at.to_string();
    c.execute(
        sql,
        values![event.id, &event.pipeline, &at, &event.who, &event.what, &event.detail],
    )?;
    Ok(())
}

/// A pipeline's events, newest first.
pub(crate) fn events(c: &mut dyn Sql, pipeline: &str, limit: u64) -> Result<Vec<Event>> {
    let sql = "SELECT id, pipeline, at, who, what, detail FROM events WHERE pipeline = ?
        ORDER BY id DESC LIMIT ?";
    let read = |mut row: Row| {
        Ok(Event {
            id: row.number(0)?,
            pipeline: row.text(1)?,
            at: row.time(2)?,
            who: row.text(3)?,
            what: row.text(4)?,
            detail: row.text(5)?,
        })
    };
    c.query(sql, values![pipeline, limited(limit)])?.into_iter().map(read).collect()
}
