//! A step that does the steps below it for each record of a source, so many at once.
//!
//! The checkpoint is where the source stands behind the last parent before which all are done, as
//! the source itself says it: a key, and never a count, so that parents that come or go meanwhile
//! neither shift nor skip others. With it are those that are at work. It is noted before parents
//! begin, and stored in the same commit as the first of their steps that no mark guards; else at the
//! job's interval. So what a crash repeats is what was at work, and is known to have been.
//!
//! Statements are not repeated at all, because each has a mark with the parent's id in its database
//! until the checkpoint has passed it, or because many parents are one transaction with its own
//! checkpoint (`grouped`).

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use piton::job::Begun;
use piton_connectors::{
    batch::Batch,
    source::{Read, Reader, Source, SourceError, Start},
};
use piton_core::{StoredPosition, interval::Interval};

use super::{
    fields,
    grouped::{self, Grouped},
    marks::Done,
    passed::{At, Mode, Passed, Unpassed},
    pipeline, progress,
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

/// How many parents may have come in before one that was at work, for that to be found again.
const AHEAD: usize = 1000;

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
    if scope.parent().is_none() {
        pipeline::refuse_shared_files(for_each, &step.steps, scope, begun)?;
    }
    let accepts = course.options.accept_changes;
    let goes_on = accepts || config.on_source_change == OnSourceChange::Continue;
    let source = connect::source(&config, goes_on).map_err(of_source)?;
    let within = scope.parent_id();
    let stored = Passed::of(begun, within.as_deref());
    let run = course.steps.identity().map_err(of_job)?;
    let done = Done { run, done: begun.generation, attempt: None, passed: None, at: None };
    let (mode, grouped) = way(course, step, scope, &done, for_each, stored.as_ref());
    let stand = match mode {
        Some(mode) => progress::standing_of(course, step, &done, mode, stored.as_ref())?,
        None => progress::stored(stored.as_ref()),
    };
    let partition = only_partition(&*source, step).map_err(|error| match error {
        Ok(error) => of_source(error),
        Err(error) => error,
    })?;
    let start = Start { partition, position: stand.at };
    if !accepts {
        let strict = if goes_on { connect::source(&config, false) } else { Ok(source.clone()) };
        refuse_changed(course, &config, &name, &*strict.map_err(of_source)?, &start)?;
    }
    let mut reader = source.reader(std::slice::from_ref(&start)).map_err(of_source)?;
    let mut walk = Walk {
        course,
        step,
        for_each,
        scope,
        begun,
        path: &path,
        within,
        mode,
        grouped,
        has_columns: config.source.settings.has_fixed_fields(),
        done,
        unpassed: stand.begun,
        interval: Interval::new(course.job.checkpoint.clone(), Duration::ZERO, 0),
        saved_at: Instant::now(),
        passed: start.position,
        count: stand.passed,
        marked: stand.marked,
        records: 0,
        unsaved: 0,
        marks: Vec::new(),
    };
    // The way is stored before there is any effect of it.
    walk.save()?;
    if mode == Some(Mode::Each) {
        walk.marked = progress::begin(course, step, &walk.done())?;
    }
    let went = walk.read(&mut *reader, &name);
    let went = match went {
        Ok(went) => went,
        Err(error) => {
            // Its database may be the reason: there nothing more is tried.
            let _ = walk.store();
            return Err(error);
        }
    };
    walk.save()?;
    if went == Went::Done && mode == Some(Mode::Each) {
        progress::end(course, step, &walk.done())?;
    }
    Ok((went, Some(walk.records)))
}

/// How the parents are done: as when the step began, if it had. Below another `for_each` there is
/// one way only.
fn way<'a>(
    course: &'a Course<'a>,
    step: &'a Step,
    scope: &Scope<'_>,
    done: &Done,
    for_each: &ForEach,
    stored: Option<&Passed>,
) -> (Option<Mode>, Option<Grouped<'a>>) {
    if scope.parent().is_some() {
        return (None, None);
    }
    let grouped = match stored.and_then(|stored| stored.mode) {
        Some(Mode::Each) => None,
        Some(Mode::Grouped) => Grouped::of(course, step, done),
        None => Grouped::of(course, step, done).filter(|_| grouped::is_quickest(step, for_each)),
    };
    let mode = if grouped.is_some() { Mode::Grouped } else { Mode::Each };
    (Some(mode), grouped)
}

/// Refuses parents whose source is not what it was, unless the file says to go on. What the steps
/// below have done for each parent is not undone, so that `restart` refuses, too.
fn refuse_changed(
    course: &Course<'_>,
    config: &Config,
    name: &str,
    strict: &dyn Source,
    start: &Start,
) -> Result<(), RunError> {
    let of_source = |error: &SourceError| RunError::of_source(name, error);
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
    mode: Option<Mode>,
    grouped: Option<Grouped<'a>>,
    /// Whether all records have the same fields.
    has_columns: bool,
    /// What every mark of it says.
    done: Done,
    unpassed: Unpassed,
    interval: Interval,
    saved_at: Instant,
    /// Behind the last parent before which all are done; `None`: before the first.
    passed: Option<StoredPosition>,
    /// How many these are, of all attempts.
    count: u64,
    /// How many of them a mark in each database says.
    marked: BTreeMap<String, u64>,
    records: u64,
    unsaved: u64,
    /// Marks of parents that are done and not yet passed durably.
    marks: Vec<Marked>,
}

impl<'a> Walk<'a> {
    fn read(&mut self, reader: &mut dyn Reader, name: &str) -> Result<Went, RunError> {
        let mut is_first = self.has_columns;
        let mut next = || {
            let read = reader.read(BATCH).map_err(|error| RunError::of_source(name, &error))?;
            if let Read::Batch(batch) = &read
                && std::mem::take(&mut is_first)
            {
                fields::refuse_unknown(self.step, self.for_each, &batch.schema)?;
            }
            Ok(read)
        };
        let mut ahead = self.ahead(&mut next)?;
        if self.at_work(&ahead)? == Went::Stopped {
            return Ok(Went::Stopped);
        }
        loop {
            match ahead.pop_front().map_or_else(&mut next, Ok)? {
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

    /// Reads ahead to all parents that were at work when the step ended before, as far as they may
    /// be.
    fn ahead(
        &self,
        next: &mut dyn FnMut() -> Result<Read, RunError>,
    ) -> Result<VecDeque<Read>, RunError> {
        let (mut ahead, mut found, mut rows) = (VecDeque::new(), 0, 0);
        while found < self.unpassed.at_work() && rows < AHEAD {
            let read = next()?;
            let is_last = match &read {
                Read::Batch(batch) => {
                    let ids = (0..batch.rows()).map(|row| batch.id(row));
                    found += ids.filter(|id| self.unpassed.slot(id).is_some()).count();
                    rows += batch.rows();
                    false
                }
                Read::Idle => self.course.signal.is_stopping(),
                Read::Bad(_) | Read::Finished => true,
            };
            ahead.push_back(read);
            if is_last {
                break;
            }
        }
        Ok(ahead)
    }

    /// Does the parents first that were at work, each where its steps have their checkpoints. Others
    /// may have come in before them.
    fn at_work(&mut self, ahead: &VecDeque<Read>) -> Result<Went, RunError> {
        let mut parents = Vec::new();
        for read in ahead {
            let Read::Batch(batch) = read else { continue };
            for row in 0..batch.rows() {
                if let Some(slot) = self.unpassed.slot(&batch.id(row)) {
                    parents.push(self.parent(batch, row, slot));
                }
            }
        }
        self.release(&parents)?;
        while !parents.is_empty() {
            let at_once = self.for_each.concurrency.get().min(parents.len());
            let rest = parents.split_off(at_once);
            let done = self.beside_each_other(&parents);
            for (parent, _) in parents.into_iter().zip(&done).filter(|(_, done)| is_done(done)) {
                self.unpassed.done(&parent.id);
                self.keep_marks(parent);
            }
            if let Some(not_done) = done.into_iter().find(|done| !is_done(done)) {
                return not_done;
            }
            parents = rest;
        }
        Ok(Went::Done)
    }

    /// Parents that were at work and are gone from the source: nothing runs of them any more.
    fn release(&mut self, found: &[Parent<'_>]) -> Result<(), RunError> {
        let slots = found.iter().map(|parent| parent.slot).collect();
        for slot in self.unpassed.retain(&slots) {
            let (name, at) = (&*self.for_each.name, &*self.step.path);
            let (id, fields, marks) = (String::new(), Vec::new(), Mutex::default());
            let gone = Parent { name, fields, id, generation: 0, at, slot, marks };
            let mut paths = Vec::new();
            super::paths(&self.step.steps, &self.scope.below(&gone), &mut paths);
            let steps = &self.course.steps;
            let runs = |path: &&String| steps.state(path).is_some_and(|s| s.is_running_command());
            paths.iter().filter(runs).try_for_each(|path| steps.stopped(path)).map_err(of_job)?;
        }
        Ok(())
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
            grouped.execute(batch, (row..next, self.count), &|row| behind(batch, row), of)?;
            self.advance(batch, next, (next - row) as u64);
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
            if self.unpassed.is_done(&batch.id(row)) {
                self.pass(batch, row, 1);
                row += 1;
                continue;
            }
            let most = (row + self.for_each.concurrency.get()).min(batch.rows());
            let is_done = |row: &usize| self.unpassed.is_done(&batch.id(*row));
            let next = (row + 1..most).find(is_done).unwrap_or(most);
            let went = self.beside(batch, row..next)?;
            if went == Went::Stopped {
                return Ok(Went::Stopped);
            }
            if self.interval.is_due(self.saved_at.elapsed(), self.unsaved) {
                self.save()?;
            }
            row = next;
        }
        Ok(Went::Done)
    }

    /// Does some parents beside each other.
    fn beside(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Went, RunError> {
        let first = rows.start;
        let mut parents = Vec::with_capacity(rows.len());
        for row in rows {
            let slot = self.unpassed.begin(&batch.id(row));
            parents.push(self.parent(batch, row, slot));
        }
        // Stored when one of them begins to do what no mark guards.
        self.note()?;
        let done = self.beside_each_other(&parents);
        // What is done before the first that is not.
        let passed = done.iter().take_while(|done| is_done(done)).count();
        for (nth, parent) in parents.into_iter().enumerate() {
            if !is_done(&done[nth]) {
                continue;
            }
            if nth >= passed {
                self.unpassed.done(&parent.id);
            }
            self.keep_marks(parent);
        }
        self.pass(batch, first, passed);
        done.into_iter().nth(passed).unwrap_or(Ok(Went::Done))
    }

    /// Notes that so many parents from this one on are done, and all before them.
    fn pass(&mut self, batch: &Batch, first: usize, parents: usize) {
        for row in first..first + parents {
            self.unpassed.pass(&batch.id(row));
        }
        self.advance(batch, first + parents, parents as u64);
    }

    fn keep_marks(&mut self, of: Parent<'_>) {
        self.marks.extend(of.marks.into_inner().unwrap_or_else(PoisonError::into_inner));
    }

    fn advance(&mut self, batch: &Batch, upto: usize, records: u64) {
        if records > 0 {
            self.passed = Some(behind(batch, upto));
            self.count += records;
            self.records += records;
            self.unsaved += records;
        }
    }

    fn parent(&self, batch: &Batch, row: usize, slot: usize) -> Parent<'a> {
        let parent = grouped::parent(&self.for_each.name, &self.step.path, batch, row);
        Parent { generation: self.begun.generation, slot, ..parent }
    }

    fn beside_each_other(&self, parents: &[Parent<'_>]) -> Vec<Result<Went, RunError>> {
        if let [parent] = parents {
            return vec![self.one(parent)];
        }
        thread::scope(|threads| {
            let started: Vec<_> =
                parents.iter().map(|parent| threads.spawn(move || self.one(parent))).collect();
            let joined = started.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect()
        })
    }

    /// Does the steps below for one parent.
    fn one(&self, parent: &Parent<'_>) -> Result<Went, RunError> {
        if self.course.signal.is_stopping() {
            return Ok(Went::Stopped);
        }
        let scope = self.scope.below(parent);
        self.course.level(&self.step.steps, &scope).map_err(|error| named(error, parent))
    }

    /// What a mark says of how far the parents are done.
    fn done(&self) -> Done {
        let at = self.passed.as_ref().map(At::of);
        Done { passed: Some(self.count), at, ..self.done.clone() }
    }

    /// Notes how far the parents are done and which are at work, to be stored with what these do.
    fn note(&mut self) -> Result<(), RunError> {
        let passed = Passed {
            within: self.within.clone(),
            mode: self.mode,
            passed: self.count,
            marked: self.marked.clone(),
            begun: self.unpassed.clone(),
            at: self.passed.as_ref().map(At::of),
        };
        self.course.steps.note(self.path, &passed, self.unsaved).map_err(of_job)?;
        self.unsaved = 0;
        Ok(())
    }

    /// Stores how far the parents are done. Until the parent above is passed, it may be begun once
    /// more: there it is noted only.
    fn store(&mut self) -> Result<(), RunError> {
        self.note()?;
        match self.scope.parent() {
            Some(_) => Ok(()),
            None => self.course.steps.flush().map_err(of_job),
        }
    }

    /// Stores how far the parents are done; the marks below are not needed any more then.
    fn save(&mut self) -> Result<(), RunError> {
        let began = Instant::now();
        self.store()?;
        if let Some(above) = self.scope.parent() {
            let mut marks = above.marks.lock().unwrap_or_else(PoisonError::into_inner);
            marks.append(&mut self.marks);
        } else {
            let marks = std::mem::take(&mut self.marks);
            self.marked.extend(progress::mark(self.course, self.step, &self.done(), marks)?);
        }
        self.interval.saved(began.elapsed());
        self.saved_at = Instant::now();
        Ok(())
    }
}

fn is_done(went: &Result<Went, RunError>) -> bool {
    matches!(went, Ok(Went::Done))
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
