//! How far the parents of a `for_each` are done, as the databases say in which statements below it
//! take effect, compared with what the store says.
//!
//! Each has a mark with the number of parents that are done. Where many are one transaction the mark
//! is in it, and ahead of the store. Where each is done by itself the mark is written once the store
//! has that number, so that it is behind: one that is ahead shows an older store, and one that is
//! behind what the store knows it to be shows an older database.

use std::collections::{BTreeMap, BTreeSet};

use piton_core::{CheckpointKey, StoredPosition, claim::WHOLE};

use super::{
    Purpose,
    marks::{Done, Judged},
    passed::{At, Mode, Passed, Unpassed},
    sql::{Marked, SINK, databases_of, execute, of_statements, sink_of, standing},
};
use crate::{
    job::{definition::Step, run::Course},
    run::RunError,
};

/// Where a `for_each` goes on.
#[derive(Default)]
pub(super) struct Stand {
    /// How many parents are done.
    pub(super) passed: u64,
    /// Behind which of them; `None`: before the first.
    pub(super) at: Option<StoredPosition>,
    pub(super) begun: Unpassed,
    /// How many a mark in each database says at least.
    pub(super) marked: BTreeMap<String, u64>,
}

/// The key of the mark that says how far a `for_each` is.
pub(super) fn key_of(course: &Course<'_>, step: &Step) -> CheckpointKey {
    CheckpointKey::new(course.steps.job(), step.path.clone(), SINK)
}

/// The databases of the steps below one.
fn databases(step: &Step) -> BTreeSet<String> {
    let mut urls = BTreeSet::new();
    step.steps.iter().for_each(|step| databases_of(step, &mut urls));
    urls
}

/// Where the store says that it goes on.
pub(super) fn stored(stored: Option<&Passed>) -> Stand {
    stored.map_or_else(Stand::default, |stored| Stand {
        passed: stored.passed,
        at: stored.at.as_ref().map(At::stored),
        begun: stored.begun.clone(),
        marked: stored.marked.clone(),
    })
}

/// Where it goes on. `mine` is what a mark of it says besides numbers.
///
/// # Errors
/// [`RunError::Refused`] where store and databases are not of one time, unless what the databases say
/// is adopted.
pub(super) fn standing_of(
    course: &Course<'_>,
    step: &Step,
    mine: &Done,
    mode: Mode,
    known: Option<&Passed>,
) -> Result<Stand, RunError> {
    let (key, stand) = (key_of(course, step), stored(known));
    let mut found = Vec::new();
    for url in databases(step) {
        let judged = standing(course, step, &url, &key, mine)?;
        let is_foreign = matches!(judged, Judged::Adopted(_));
        let done = match judged {
            Judged::Nothing => None,
            Judged::Own(done) => Some(done),
            Judged::Adopted(done) => done,
        };
        found.push((url, is_foreign, done));
    }
    let was_grouped = known.and_then(|known| known.mode) == Some(Mode::Grouped);
    if mode == Mode::Grouped || was_grouped {
        let done = found.into_iter().filter_map(|(.., done)| done);
        let done = done.max_by_key(|done| done.passed);
        let most = done.as_ref().and_then(|done| done.passed).unwrap_or(0);
        if most < stand.passed && !course.options.adopt {
            return Err(older_database(course, step, None, (most, stand.passed)));
        }
        return Ok(done.map_or_else(Stand::default, |done| at(&done)));
    }
    match disagreement(course, step, &stand, &found)? {
        None => Ok(stand),
        Some(error) if !course.options.adopt => Err(error),
        Some(_) => {
            let lowest = found.into_iter().map(|(.., done)| done);
            let lowest = lowest.min_by_key(|done| done.as_ref().and_then(|done| done.passed));
            Ok(lowest.flatten().map_or_else(Stand::default, |done| at(&done)))
        }
    }
}

/// What the first database that is not of the time of the store says.
fn disagreement(
    course: &Course<'_>,
    step: &Step,
    stand: &Stand,
    found: &[(String, bool, Option<Done>)],
) -> Result<Option<RunError>, RunError> {
    for (url, is_foreign, done) in found {
        let says = done.as_ref().and_then(|done| done.passed);
        let place = course.databases.place(course, url);
        let place = place.map_err(|error| of_statements(&step.path, Purpose::Body, &error))?;
        let least = stand.marked.get(&place).copied();
        let is_behind = least.is_some_and(|least| says.is_none_or(|says| says < least));
        let numbers = (says.unwrap_or(0), stand.passed);
        if *is_foreign || says > Some(stand.passed) {
            return Ok(Some(older_store(course, step, numbers)));
        }
        if is_behind {
            return Ok(Some(older_database(course, step, Some(url), numbers)));
        }
    }
    Ok(None)
}

fn at(done: &Done) -> Stand {
    let at = done.at.as_ref().map(At::stored);
    Stand { passed: done.passed.unwrap_or(0), at, ..Stand::default() }
}

fn older_store(course: &Course<'_>, step: &Step, (says, knows): (u64, u64)) -> RunError {
    let (job, path) = (course.steps.job(), &step.path);
    RunError::Refused(format!(
        "step '{path}': the store is older than the database of its statements: by a mark there {says} \
         records are done, and the store knows of {knows}. Restore the newer store, or run with \
         --adopt to go on from what the database says, or `piton rewind {job} --to {path}` to do all \
         of them once more"
    ))
}

fn older_database(
    course: &Course<'_>,
    step: &Step,
    url: Option<&str>,
    (says, knows): (u64, u64),
) -> RunError {
    let (job, path) = (course.steps.job(), &step.path);
    let at = url.and_then(|url| url.strip_prefix("sqlite:"));
    let at = at.map_or_else(String::new, |at| format!(" {at}"));
    RunError::Refused(format!(
        "step '{path}': the database{at} of its statements is older than the store, or another one: \
         by its mark {says} records are done, and the store knows of {knows}. Restore the newer \
         database, or run with --adopt to go on from what this one says, or `piton rewind {job} --to \
         {path}` to do all of them once more"
    ))
}

/// Says in databases how far the parents are done, which the store says by now, and takes their marks
/// away. The numbers that are marked there now.
pub(super) fn mark(
    course: &Course<'_>,
    step: &Step,
    done: &Done,
    marks: Vec<Marked>,
) -> Result<BTreeMap<String, u64>, RunError> {
    let mut by_url: BTreeMap<String, Vec<CheckpointKey>> = BTreeMap::new();
    for Marked { url, key } in marks {
        by_url.entry(url).or_default().push(key);
    }
    mark_all(course, step, done, by_url)
}

/// The same in all databases of the steps below, before the first parent: a mark that is missing
/// later shows another database.
pub(super) fn begin(
    course: &Course<'_>,
    step: &Step,
    done: &Done,
) -> Result<BTreeMap<String, u64>, RunError> {
    mark_all(course, step, done, databases(step).into_iter().map(|url| (url, Vec::new())))
}

/// The same once all are done: no marks of single parents are left.
pub(super) fn end(course: &Course<'_>, step: &Step, done: &Done) -> Result<(), RunError> {
    let marks = CheckpointKey::new(course.steps.job(), WHOLE, sink_of(&step.path));
    let clears = databases(step).into_iter().map(|url| (url, vec![marks.clone()]));
    mark_all(course, step, done, clears).map(drop)
}

fn mark_all(
    course: &Course<'_>,
    step: &Step,
    done: &Done,
    clears: impl IntoIterator<Item = (String, Vec<CheckpointKey>)>,
) -> Result<BTreeMap<String, u64>, RunError> {
    use piton_connectors::sql_statements::Executed;
    let (key, mut marked) = (key_of(course, step), BTreeMap::new());
    let failed = |error| of_statements(&step.path, Purpose::Body, &error);
    for (url, clears) in clears {
        match execute(course, step, &url, (&key, done, &clears), &[])?.map_err(failed)? {
            Executed::Fenced { epoch } => return Err(course.fenced_by(epoch.0)),
            _ => marked.insert(
                course.databases.place(course, &url).map_err(failed)?,
                done.passed.unwrap_or(0),
            ),
        };
    }
    Ok(marked)
}
