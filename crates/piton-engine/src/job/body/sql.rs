//! A step of statements: in one transaction with the mark that says they were done, in the
//! database in which they take effect.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use piton::job::{Begun, JobError, WHOLE_JOB};
use piton_connectors::sql_statements::{
    self, Executed, Limits, Mark, Statement as Bound, Statements, StatementsError,
    Value as Parameter,
};
use piton_core::{
    Checkpoint, CheckpointKey, Epoch, StoredPosition, checksum::Checksum, claim::WHOLE,
};

use super::{
    Purpose,
    connections::Database,
    marks::{Done, Judged, unknown_claim},
};
use crate::{
    config::WhenHeld,
    job::{
        definition::{Action, Body, Database as Where, Piece, Sql, Statement, Step, Value},
        run::{Course, of_job},
        stepping::Scope,
    },
    run::RunError,
};

/// The sink of marks, so that a database is fenced once for them all.
pub(super) const SINK: &str = "sql";

/// How long until a database that was held is asked again.
const HELD: Duration = Duration::from_millis(100);

/// How often what is not known is found out.
const TRIES: u32 = 10;

/// A mark that a step has left in a database for one parent.
#[derive(Debug, Clone)]
pub(in crate::job) struct Marked {
    pub(super) url: String,
    pub(super) key: CheckpointKey,
}

/// The databases in which statements were executed, each with its connections.
#[derive(Default)]
pub(in crate::job) struct Databases(Mutex<HashMap<String, Arc<Database>>>);

impl Databases {
    fn get(&self, url: &str) -> Arc<Database> {
        let mut known = self.known();
        let found = known.entry(url.to_owned()).or_insert_with(|| Arc::new(Database::new(url)));
        Arc::clone(found)
    }

    /// Does something by a connection to a database. Where an owner before holds it still, such as
    /// one that was stopped within a transaction, that is waited for as for its claim.
    fn with<T>(
        &self,
        course: &Course<'_>,
        url: &str,
        mut work: impl FnMut(&mut dyn Statements) -> Result<T, StatementsError>,
    ) -> Result<T, StatementsError> {
        let open = || sql_statements::open(url, &course.job.dir, course.job.claim.lease);
        let database = self.get(url);
        let waits = course.job.claim.when_held == WhenHeld::Wait;
        let mut is_told = false;
        loop {
            match database.with(open, &mut work) {
                Err(held @ StatementsError::Held { .. }) if waits => {
                    if !is_told {
                        (course.options.on_notice)(&format!("waiting: {held}"));
                        is_told = true;
                    }
                    if !course.signal.sleep(HELD) {
                        return Err(held);
                    }
                }
                done => return done,
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Database>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A database by where it is, as a word that betrays nothing.
    pub(super) fn place(&self, course: &Course<'_>, url: &str) -> Result<String, StatementsError> {
        let at = self.with(course, url, |statements| Ok(statements.location()))?;
        let Checksum(hash) = Checksum::build().text(&at).finish();
        Ok(format!("{hash:016x}"))
    }

    /// Takes all marks away that steps have left, but for one that says so: the job is done.
    pub(super) fn clear_all(&self, course: &Course<'_>) -> Result<(), RunError> {
        let mut urls = BTreeSet::new();
        course.job.steps.iter().for_each(|step| databases_of(step, &mut urls));
        urls.iter().try_for_each(|url| self.take_away(course, url))
    }

    fn take_away(&self, course: &Course<'_>, url: &str) -> Result<(), RunError> {
        let key = CheckpointKey::new(course.steps.job(), WHOLE_JOB, SINK);
        let marks = CheckpointKey::new(course.steps.job(), WHOLE, SINK);
        let cleared = self.with(course, url, |statements| {
            unless_own(course, || {
                let (epoch, found) = fence(course, statements, &key)?;
                let json = serde_json::json!({ "passed": epoch.0 }).to_string();
                let mark = Mark {
                    key: key.clone(),
                    epoch,
                    expected: found.map(|found| found.version),
                    position: StoredPosition { kind: "mark".to_owned(), json },
                    clears: vec![marks.clone()],
                };
                statements.execute(&mark, &[], &Limits::default())
            })
        });
        let cleared = cleared.map_err(|error| of_statements(WHOLE_JOB, Purpose::Body, &error))?;
        match cleared {
            Executed::Fenced { epoch } => Err(course.fenced_by(epoch.0)),
            _ => Ok(()),
        }
    }
}

/// Takes over, and reads a mark, with the newest epoch of this process.
fn fence(
    course: &Course<'_>,
    statements: &mut dyn Statements,
    key: &CheckpointKey,
) -> Result<(Epoch, Option<Checkpoint>), StatementsError> {
    loop {
        let epoch = course.steps.held().epoch;
        match statements.fence(key, epoch) {
            // The job was claimed anew meanwhile, and a step beside this one was quicker.
            Err(StatementsError::Fenced { epoch, .. }) if is_own(course, epoch) => {}
            Err(StatementsError::Fenced { epoch, at }) => go_above(course, key, epoch, at)?,
            found => return Ok((epoch, found?)),
        }
    }
}

/// Where a newer epoch was found and the job is nobody else's in its store, that was another store,
/// or this one at a later time. Its marks are adopted under an epoch above it, or refused.
fn go_above(
    course: &Course<'_>,
    key: &CheckpointKey,
    epoch: Epoch,
    at: String,
) -> Result<(), StatementsError> {
    if course.steps.renew().is_err() {
        return Err(StatementsError::Fenced { epoch, at });
    }
    if !course.options.adopt {
        return Err(StatementsError::Refused { what: unknown_claim(key, epoch.0, &at) });
    }
    let failed = |error: JobError| StatementsError::Failed { what: error.to_string() };
    course.steps.claim_above(epoch).map_err(failed)
}

/// Executes, and once more if what has fenced it was this process, which had claimed the job anew.
fn unless_own(
    course: &Course<'_>,
    mut execute: impl FnMut() -> Result<Executed, StatementsError>,
) -> Result<Executed, StatementsError> {
    loop {
        match execute()? {
            Executed::Fenced { epoch } if is_own(course, epoch) => {}
            executed => return Ok(executed),
        }
    }
}

/// Whether an epoch is one of this process, or older.
fn is_own(course: &Course<'_>, epoch: Epoch) -> bool {
    epoch <= course.steps.held().epoch
}

/// The databases in which a step and those below it execute statements.
pub(super) fn databases_of(step: &Step, urls: &mut BTreeSet<String>) {
    let acts = [&step.on_recover, &step.on_failure, &step.on_complete];
    for action in acts.into_iter().flatten() {
        if let Action::Sql(sql) = action {
            urls.insert(url_of(&sql.database));
        }
    }
    if let Body::Sql(sql) = &step.body {
        urls.insert(url_of(&sql.database));
    }
    step.steps.iter().for_each(|step| databases_of(step, urls));
}

/// The sink of the marks that are left for each parent of a `for_each`.
pub(super) fn sink_of(for_each: &str) -> String {
    format!("{SINK} of {for_each}")
}

pub(super) fn url_of(database: &Where) -> String {
    match database {
        Where::Sqlite(path) => format!("sqlite:{}", path.display()),
        Where::Postgres(url) | Where::MySql(url) => url.clone(),
    }
}

/// An id as a part of a name that every store can hold.
pub(super) fn short(id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && !"/[]".contains(c);
    if id.len() <= 60 && id.chars().all(is_plain) {
        return id.to_owned();
    }
    let Checksum(hash) = Checksum::build().text(id).finish();
    format!("{hash:016x}")
}

/// Executes the statements of a step, unless its mark says that they were.
pub(in crate::job) fn sql(
    course: &Course<'_>,
    step: &Step,
    sql: &Sql,
    scope: &Scope<'_>,
    begun: &Begun,
    purpose: Purpose,
) -> Result<Executed, RunError> {
    let path = step.path.as_str();
    let at = |error: StatementsError| of_statements(path, purpose, &error);
    let bound = sql.statements.iter().map(|statement| bind(statement, scope, begun));
    let bound: Vec<Bound> = bound
        .collect::<Result<_, _>>()
        .map_err(|what| RunError::Settings(format!("step '{path}': {}: {what}", purpose.key())))?;
    let url = url_of(&sql.database);
    let key = key_of(course.steps.job(), path, scope, purpose);
    if let Some(parent) = scope.parent() {
        let marked = Marked { url: url.clone(), key: key.clone() };
        parent.marks.lock().unwrap_or_else(PoisonError::into_inner).push(marked);
    }
    let done = mark_of(course, begun, purpose)?;
    execute(course, step, &url, (&key, &done, &[]), &bound)?.map_err(at)
}

/// Executes statements with their mark, and finds out what is not known. With them marks are taken
/// away that are not needed any more.
pub(super) fn execute(
    course: &Course<'_>,
    step: &Step,
    url: &str,
    of: (&CheckpointKey, &Done, &[CheckpointKey]),
    bound: &[Bound],
) -> Result<Result<Executed, StatementsError>, RunError> {
    let mut tries = 0;
    course.with_signal(step, |signal| {
        loop {
            let stops = Arc::clone(signal);
            let limits = match bound {
                // That nothing but marks are written is not worth being stopped.
                [] => Limits::default(),
                _ => Limits { timeout: step.timeout, stop: Arc::new(move || stops.is_stopping()) },
            };
            let executed = course.databases.with(course, url, |statements| {
                unless_own(course, || once(course, statements, of, bound, &limits))
            });
            let error = match executed {
                Ok(executed) => return Ok(executed),
                Err(error) => error,
            };
            tries += 1;
            let again = matches!(
                error,
                StatementsError::InDoubt { .. } | StatementsError::Unavailable { .. }
            );
            if !again || tries == TRIES || !signal.sleep(crate::run::backoff(tries)) {
                return Err(error);
            }
        }
    })
}

fn once(
    course: &Course<'_>,
    statements: &mut dyn Statements,
    (key, done, clears): (&CheckpointKey, &Done, &[CheckpointKey]),
    bound: &[Bound],
    limits: &Limits,
) -> Result<Executed, StatementsError> {
    let (epoch, found) = fence(course, statements, key)?;
    let judged = done.judge(found.as_ref(), course.options.adopt, &statements.location())?;
    if let (Judged::Own(own), Some(mark)) = (&judged, &found)
        && own == done
        && clears.is_empty()
    {
        return Ok(Executed::WasDone { mark: mark.clone() });
    }
    let mark = Mark {
        key: key.clone(),
        epoch,
        expected: found.map(|found| found.version),
        position: done.stored(),
        clears: clears.to_vec(),
    };
    // How far parents are done was compared before.
    let is_adopted = matches!(judged, Judged::Adopted(_)) && done.passed.is_none();
    statements.execute(&mark, if is_adopted { &[] } else { bound }, limits)
}

/// Whether the mark of a step says that it was done.
pub(super) fn is_marked(
    course: &Course<'_>,
    step: &Step,
    sql: &Sql,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<bool, RunError> {
    let key = key_of(course.steps.job(), &step.path, scope, Purpose::Body);
    let done = mark_of(course, begun, Purpose::Body)?;
    Ok(standing(course, step, &url_of(&sql.database), &key, &done)? != Judged::Nothing)
}

/// What the mark of a step means, once everything older is fenced.
pub(super) fn standing(
    course: &Course<'_>,
    step: &Step,
    url: &str,
    key: &CheckpointKey,
    done: &Done,
) -> Result<Judged, RunError> {
    let judged = course.databases.with(course, url, |statements| {
        let (_, found) = fence(course, statements, key)?;
        done.judge(found.as_ref(), course.options.adopt, &statements.location())
    });
    judged.map_err(|error| of_statements(&step.path, Purpose::Body, &error))
}

fn key_of(job: &str, path: &str, scope: &Scope<'_>, purpose: Purpose) -> CheckpointKey {
    let mut partition = path.to_owned();
    if let Some(parent) = scope.parent_id() {
        partition += &format!("[{}]", short(&parent));
    }
    if purpose != Purpose::Body {
        partition += &format!(" ({})", purpose.key());
    }
    let sink = scope.outermost().map_or_else(|| SINK.to_owned(), sink_of);
    CheckpointKey::new(job, partition, sink)
}

/// What says that it was done: for a step and its completion once in its generation, for its
/// recovery and failure once in each attempt.
fn mark_of(course: &Course<'_>, begun: &Begun, purpose: Purpose) -> Result<Done, RunError> {
    let is_once = matches!(purpose, Purpose::Body | Purpose::Complete);
    let attempt = Some(begun.attempt).filter(|_| !is_once);
    let run = course.steps.identity().map_err(of_job)?;
    Ok(Done { run, done: begun.generation, attempt, passed: None, at: None })
}

pub(super) fn bind(
    statement: &Statement,
    scope: &Scope<'_>,
    begun: &Begun,
) -> Result<Bound, String> {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => Ok(sql_statements::Piece::Text(text.clone())),
        Piece::Value(reference) => match scope.value(begun, reference) {
            Some(value) => Ok(sql_statements::Piece::Value(parameter(value))),
            None => Err(format!("${{{reference}}} has no value here")),
        },
    };
    let pieces = statement.pieces.iter().map(piece).collect::<Result<_, _>>()?;
    Ok(Bound { pieces })
}

fn parameter(value: Value) -> Parameter {
    match value {
        Value::Null => Parameter::Null,
        Value::Boolean(value) => Parameter::Boolean(value),
        Value::Integer(value) => Parameter::Integer(value),
        Value::Float(value) => Parameter::Number(value.to_string()),
        Value::Number(value) => Parameter::Number(value),
        Value::Text(value) => Parameter::Text(value),
        Value::Date(value) => Parameter::Text(value.to_string()),
        Value::Bytes(value) => Parameter::Bytes(value),
        Value::Json(value) => Parameter::Json(value),
    }
}

pub(super) fn of_statements(path: &str, purpose: Purpose, error: &StatementsError) -> RunError {
    let text = format!("step '{path}': {}: {error}", purpose.key());
    match error {
        StatementsError::Settings { .. } => RunError::Settings(text),
        StatementsError::Refused { .. } | StatementsError::Committed { .. } => {
            RunError::Refused(text)
        }
        StatementsError::Held { .. } => RunError::Locked(text),
        StatementsError::Fenced { epoch, .. } => {
            RunError::Fenced { pipeline: path.to_owned(), what: format!("epoch {epoch}") }
        }
        _ => RunError::Failed(text),
    }
}
