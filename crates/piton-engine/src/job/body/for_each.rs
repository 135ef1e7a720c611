//! A step that does the steps below it for each record of a source, so many at once.
//!
//! The checkpoint is where the source stands behind the last parent before which all are done, as
//! the source itself says it: a key, and never a count, so that parents that come or go meanwhile
//! neither shift nor skip others. It is stored at the job's interval. What lies behind it is done
//! again after a crash: commands once more, pipelines from their own checkpoints; statements not at
//! all, because each has a mark with the parent's id in its database until the checkpoint has
//! passed it, or because many parents are one transaction with its own checkpoint (`grouped`).

use std::{
    cmp::Ordering,
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use piton::job::Begun;
use piton_connectors::{
    batch::Batch,
    source::{Read, Reader, Source, SourceError, Start},
};
use piton_core::{Position, StoredPosition, interval::Interval};
use serde::{Deserialize, Serialize};

use super::{
    grouped::{self, Grouped},
    sql::Marked,
    value_of,
};
use crate::{
    config::Config,
    connect,
    job::{
        definition::{ForEach, OnSourceChange, Step},
        run::{Course, of_job},
        stepping::{Parent, Scope},
        walk::Went,
    },
    run::RunError,
};

/// How late the store may hear of what is durable in a database.
const MIRRORED: Duration = Duration::from_secs(1);

/// How many parents are read at once.
const BATCH: usize = 1000;

/// Where the source stands, and for which parent above this is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Passed {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<String>,
    kind: String,
    at: serde_json::Value,
}

impl PartialOrd for Passed {
    /// Only the source knows an order, and it gives its records in it.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(if self == other { Ordering::Equal } else { Ordering::Greater })
    }
}

impl Position for Passed {
    const KIND: &'static str = "for_each";
}

/// Does the steps below for each record. With how many records there were.
pub(super) fn run(
    course: &Course<'_>,
    step: &Step,
    for_each: &ForEach,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<(Went, Option<u64>), RunError> {
    let path = scope.path(&step.path);
    let name = format!("{}/{path}", course.steps.job());
    let config = for_each.source.config(&name, &value_of(scope, begun));
    let config = config.map_err(|error| RunError::Settings(error.to_string()))?;
    let of_source = |error| RunError::of_source(&name, &error);
    let accepts = course.options.accept_changes;
    let goes_on = accepts || config.on_source_change == OnSourceChange::Continue;
    let source = connect::source(&config, goes_on).map_err(of_source)?;
    let within = scope.parent_id();
    let grouped = Grouped::of(course, step, scope, begun, for_each.concurrency.get());
    let marked = grouped.as_ref().map(Grouped::standing).transpose()?.flatten();
    let position = marked.or_else(|| stored(begun, within.as_deref()));
    let partition = only_partition(&*source, step).map_err(|error| match error {
        Ok(error) => of_source(error),
        Err(error) => error,
    })?;
    let start = Start { partition, position };
    if !accepts {
        refuse_changed(course, &config, &name, &start)?;
    }
    let mut reader = source.reader(&[start]).map_err(of_source)?;
    let mut walk = Walk {
        course,
        step,
        for_each,
        scope,
        begun,
        path: &path,
        within,
        grouped,
        interval: Interval::new(course.job.checkpoint.clone(), Duration::ZERO, 0),
        saved_at: Instant::now(),
        passed: None,
        records: 0,
        unsaved: 0,
        marks: Vec::new(),
    };
    let went = walk.read(&mut *reader, &name)?;
    walk.save()?;
    if went == Went::Done && scope.parent().is_none() && walk.grouped.is_none() {
        course.databases.clear(course, step)?;
    }
    Ok((went, Some(walk.records)))
}

/// Refuses parents whose source is not what it was, unless the file says to go on. What the steps
/// below have done for each parent is not undone, so that `restart` refuses, too.
fn refuse_changed(
    course: &Course<'_>,
    config: &Config,
    name: &str,
    start: &Start,
) -> Result<(), RunError> {
    let of_source = |error: &SourceError| RunError::of_source(name, error);
    let strict = connect::source(config, false).map_err(|error| of_source(&error))?;
    match strict.verify(start, course.options.verify) {
        Err(SourceError::Gap { what, .. })
            if config.on_source_change == OnSourceChange::Continue =>
        {
            // What differs is the first sentence; the choices follow.
            let what = what.split(". ").next().unwrap_or_default();
            (course.options.on_notice)(&format!(
                "'{name}': the source was changed, and it goes on all the same: {what}"
            ));
            Ok(())
        }
        verified => verified.map_err(|error| of_source(&error)),
    }
}

/// Where it stands, if that is of the same parent above.
fn stored(begun: &Begun, within: Option<&str>) -> Option<StoredPosition> {
    let passed: Passed = begun.position.as_ref()?.read().ok()?;
    (passed.within.as_deref() == within)
        .then(|| StoredPosition { kind: passed.kind, json: passed.at.to_string() })
}

/// Parents have one order: a source of several partitions has none.
fn only_partition(
    source: &dyn Source,
    step: &Step,
) -> Result<String, Result<SourceError, RunError>> {
    let partitions = source.partitions().map_err(Ok)?;
    match <[String; 1]>::try_from(partitions) {
        Ok([partition]) if source.is_bounded() => Ok(partition),
        Ok(_) => Err(Err(RunError::Settings(format!(
            "step '{}': for_each needs a source with an end",
            step.path
        )))),
        Err(several) => Err(Err(RunError::Settings(format!(
            "step '{}': for_each reads one file or table in its order, and this source has {} \
             parts: name one of them, or read without `partitions`",
            step.path,
            several.len()
        )))),
    }
}

/// The way through the parents.
struct Walk<'a> {
    course: &'a Course<'a>,
    step: &'a Step,
    for_each: &'a ForEach,
    scope: &'a Scope<'a>,
    begun: &'a Begun,
    path: &'a str,
    within: Option<String>,
    grouped: Option<Grouped<'a>>,
    interval: Interval,
    saved_at: Instant,
    /// Behind the last parent before which all are done.
    passed: Option<StoredPosition>,
    records: u64,
    unsaved: u64,
    /// Marks of parents that are done and not yet passed durably.
    marks: Vec<Marked>,
}

impl<'a> Walk<'a> {
    fn read(&mut self, reader: &mut dyn Reader, name: &str) -> Result<Went, RunError> {
        loop {
            let read = reader.read(BATCH).map_err(|error| RunError::of_source(name, &error))?;
            match read {
                Read::Batch(batch) => {
                    let went = match self.grouped.take() {
                        Some(grouped) => self.in_groups(&batch, grouped)?,
                        None => self.batch(&batch)?,
                    };
                    if went == Went::Stopped {
                        return Ok(Went::Stopped);
                    }
                }
                Read::Bad(bad) => {
                    return Err(RunError::BadRecord { place: bad.place, reason: bad.reason });
                }
                Read::Idle if self.course.signal.is_stopping() => return Ok(Went::Stopped),
                Read::Idle => {}
                Read::Finished => return Ok(Went::Done),
            }
        }
    }

    /// Does the parents of a batch, many in one transaction.
    fn in_groups(&mut self, batch: &Batch, mut grouped: Grouped<'a>) -> Result<Went, RunError> {
        let mut row = 0;
        while row < batch.rows() {
            self.course.heed()?;
            if self.course.signal.is_stopping() {
                return Ok(Went::Stopped);
            }
            let next = (row + grouped.size()).min(batch.rows());
            let of = (self.for_each.name.as_str(), self.scope, self.begun);
            grouped.execute(batch, row..next, &|row| behind(batch, row), of)?;
            self.pass(batch, next, (next - row) as u64);
            if self.saved_at.elapsed() >= MIRRORED {
                self.save()?;
            }
            row = next;
        }
        self.grouped = Some(grouped);
        Ok(Went::Done)
    }

    /// Does the parents of a batch, some beside each other, and passes them in their order.
    fn batch(&mut self, batch: &Batch) -> Result<Went, RunError> {
        let mut row = 0;
        while row < batch.rows() {
            let next = (row + self.for_each.concurrency.get()).min(batch.rows());
            let done = self.beside_each_other(batch, row..next);
            // What is done before the first that is not.
            let mut went = Ok(Went::Done);
            let mut passed = row;
            for (result, marks) in done {
                match result {
                    Ok(Went::Done) => passed += 1,
                    other => {
                        went = other;
                        break;
                    }
                }
                self.marks.extend(marks);
            }
            self.pass(batch, passed, (passed - row) as u64);
            if !matches!(went, Ok(Went::Done)) {
                let saved = self.save();
                return went.and_then(|went| saved.map(|()| went));
            }
            if self.interval.is_due(self.saved_at.elapsed(), self.unsaved) {
                self.save()?;
            }
            row = next;
        }
        Ok(Went::Done)
    }

    fn pass(&mut self, batch: &Batch, upto: usize, records: u64) {
        if records > 0 {
            self.passed = Some(behind(batch, upto));
            self.records += records;
            self.unsaved += records;
        }
    }

    fn beside_each_other(
        &self,
        batch: &Batch,
        rows: std::ops::Range<usize>,
    ) -> Vec<(Result<Went, RunError>, Vec<Marked>)> {
        if rows.len() == 1 {
            return vec![self.one(batch, rows.start, 0)];
        }
        thread::scope(|threads| {
            let first = rows.start;
            let started: Vec<_> =
                rows.map(|row| threads.spawn(move || self.one(batch, row, row - first))).collect();
            let joined = started.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect()
        })
    }

    /// Does the steps below for one parent.
    fn one(&self, batch: &Batch, row: usize, slot: usize) -> (Result<Went, RunError>, Vec<Marked>) {
        if self.course.signal.is_stopping() {
            return (Ok(Went::Stopped), Vec::new());
        }
        let name = &self.for_each.name;
        let generation = self.begun.generation;
        let parent = grouped::parent(name, &self.step.path, batch, row);
        // What was noted for a parent before the step began anew counts no more.
        let id = match generation {
            0 => parent.id,
            generation => format!("{}~{generation}", parent.id),
        };
        let parent = Parent { id, slot, ..parent };
        let scope = self.scope.below(&parent);
        let went =
            self.course.level(&self.step.steps, &scope).map_err(|error| named(error, &parent));
        let marks = parent.marks.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        (went, marks)
    }

    /// Stores how far the parents are done; the marks below are not needed any more then.
    fn save(&mut self) -> Result<(), RunError> {
        let Some(passed) = self.passed.take() else { return Ok(()) };
        let began = Instant::now();
        let at = serde_json::from_str(&passed.json).unwrap_or(serde_json::Value::Null);
        let passed = Passed { within: self.within.clone(), kind: passed.kind, at };
        self.course.steps.moved(self.path, &passed, self.unsaved).map_err(of_job)?;
        self.unsaved = 0;
        self.interval.saved(began.elapsed());
        self.saved_at = Instant::now();
        match self.scope.parent() {
            None => self.course.databases.covered(self.marks.drain(..)),
            // Until the parent above is passed, it may be begun once more.
            Some(above) => {
                let mut marks = above.marks.lock().unwrap_or_else(PoisonError::into_inner);
                marks.append(&mut self.marks);
            }
        }
        Ok(())
    }
}

/// The position behind all rows before this one.
fn behind(batch: &Batch, row: usize) -> StoredPosition {
    if row == batch.rows() { batch.end.clone() } else { batch.resume_at(row) }
}

/// Says for which parent something failed.
pub(super) fn named(error: RunError, parent: &Parent<'_>) -> RunError {
    let named = |what: String| format!("{} {}: {what}", parent.name, parent.id);
    match error {
        RunError::Failed(what) => RunError::Failed(named(what)),
        RunError::Refused(what) => RunError::Refused(named(what)),
        RunError::Settings(what) => RunError::Settings(named(what)),
        error => error,
    }
}
