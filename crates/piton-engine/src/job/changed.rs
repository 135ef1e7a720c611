//! What a changed file means for a run that has begun: it is refused with the difference, until that is
//! accepted. Then what is new is done, and what is done stays so.

use std::collections::{BTreeMap, BTreeSet};

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::{self, STEP, Stage, StepState, WHOLE_JOB};
use piton_core::{Control, Event, PipelineRecord, Store};
use serde_json::Value as Json;

use super::{
    definition::{Instance, Job, OnJobComplete, Value, difference, for_each_above, new_steps},
    instances::params_of,
    run::of_job,
    view,
};
use crate::run::{RunError, RunOptions, event};

/// How the file differs from the definition with which a run began.
pub(super) struct Change {
    /// The name of the run.
    pub(super) run: String,
    /// Each difference, in a sentence.
    pub(super) what: Vec<String>,
    /// Paths of the topmost steps that are new.
    pub(super) new: Vec<String>,
    /// The definition that is stored.
    pub(super) before: String,
}

impl Change {
    /// What is recorded when it is accepted, and steps that were done go on.
    pub(super) fn event(&self, options: &RunOptions) -> Event {
        event(&self.run, options, "accept_changes", &self.what.join("; "))
    }
}

/// A definition that has changed since the run began is refused, unless that is accepted: then with
/// what has changed.
pub(super) fn compare(
    job: &Job,
    instance: &Instance,
    store: &dyn Store,
    options: &RunOptions,
) -> Result<Option<Change>, RunError> {
    if let Some((run, what)) = left_behind(job, instance, store)? {
        if !options.accept_changes {
            return Err(leaves_behind(&run, &instance.name, &what));
        }
        (options.on_notice)(&format!("'{}' begins; '{run}' stays unfinished", instance.name));
    }
    let Some(change) = changes(job, instance, store)? else { return Ok(None) };
    let begins_anew = options.again || job.on_complete == OnJobComplete::Delete;
    if begins_anew && is_finished(store, &change.run)? {
        return Ok(None);
    }
    let Change { run, what, new, .. } = &change;
    let what = what.join("; ");
    if !options.accept_changes {
        return Err(changed(run, &what));
    }
    (options.on_notice)(&format!("'{run}' goes on with a changed definition: {what}"));
    for path in new {
        if let Some(each) = for_each_above(&job.steps, path) {
            (options.on_notice)(&format!(
                "step {path} is done for the records that are still to come: `piton rewind {run} \
                 --to {each}` has it done for all of them, with the steps beside it"
            ));
        }
    }
    Ok(Some(change))
}

/// How the definition of the newest run differs from the job's; `None` if it does not.
pub(super) fn changes(
    job: &Job,
    instance: &Instance,
    store: &dyn Store,
) -> Result<Option<Change>, RunError> {
    super::instances::refuse_of_script(store, &job.name, &instance.name).map_err(of_job)?;
    let Some(run) = job::newest(store, &instance.name)? else { return Ok(None) };
    let known = block_on(store.pipelines())?.into_iter().find(|known| known.pipeline == run);
    // Without a definition it was begun by a program or a script.
    let differs = |before: &str| before != "[]" && before != job.definition.json;
    let before = known.map(|known| known.transforms).filter(|before| differs(before));
    Ok(before.map(|before| Change {
        run,
        what: difference(&before, &job.definition.json),
        new: new_steps(&before, &job.definition.json),
        before,
    }))
}

fn is_finished(store: &dyn Store, run: &str) -> Result<bool, RunError> {
    Ok(view::is_finished(&block_on(store.load(run))?))
}

pub(super) fn changed(run: &str, what: &str) -> RunError {
    RunError::Refused(format!(
        "the definition of '{run}' has changed since it began: {what}. Run with --accept-changes to \
         go on with the new one from where it stands, or with --again, once it has finished, for a \
         new run"
    ))
}

/// What is over and has new steps below it, as it is to go on with them: the job, too. What an operator
/// has passed over stays so, and so do the records that a `for_each` has passed.
pub(super) fn reopened(
    job: &Job,
    new: &[String],
    state: &dyn Fn(&str) -> Option<StepState>,
) -> Vec<(String, StepState)> {
    let now = Timestamp::now();
    let stage = |path: &str| state(path).map(|state| state.stage);
    let mut open = BTreeSet::new();
    for path in new {
        let above = || path.match_indices('/').map(|(end, _)| &path[..end]);
        let was_over = stage(path).is_some_and(Stage::is_over);
        let is_passed_over = above().any(|path| stage(path) == Some(Stage::Skipped));
        if !was_over && !is_passed_over && for_each_above(&job.steps, path).is_none() {
            open.extend(above().chain([WHOLE_JOB]));
        }
    }
    let over = open.into_iter().filter_map(|path| Some((path, state(path)?)));
    let over = over.filter(|(_, state)| state.stage.is_over());
    let reopened = |(path, state): (&str, StepState)| match path {
        // The job is completed once more.
        WHOLE_JOB => (path.to_owned(), StepState::rewound(Some(&state), now)),
        _ => (path.to_owned(), StepState::reopened(&state, now)),
    };
    over.map(reopened).collect()
}

/// A run that is not finished and would silently be left behind, because parameters that nobody gave
/// have other values since the file was changed; and what has changed.
pub(super) fn left_behind(
    job: &Job,
    instance: &Instance,
    store: &dyn Store,
) -> Result<Option<(String, Vec<String>)>, RunError> {
    if job::newest(store, &instance.name)?.is_some() {
        return Ok(None);
    }
    for record in block_on(store.pipelines())?.iter().filter(|known| super::is_job(known)) {
        let run = &record.pipeline;
        // What is dear is asked last: there may be a run for each day of years.
        if record.transforms == job.definition.json || !has_what_was_given(job, instance, run) {
            continue;
        }
        let what = declared_otherwise(job, record);
        if !what.is_empty() && is_half_done(store, run)? {
            return Ok(Some((run.clone(), what)));
        }
    }
    Ok(None)
}

/// How the parameters differ that a stored definition declares.
fn declared_otherwise(job: &Job, record: &PipelineRecord) -> Vec<String> {
    let params = |text: &str| {
        let Ok(Json::Object(mut of)) = serde_json::from_str(text) else { return None };
        of.retain(|key, _| key == "params");
        Some(Json::Object(of).to_string())
    };
    match (params(&record.transforms), params(&job.definition.json)) {
        (Some(before), Some(now)) => difference(&before, &now),
        _ => Vec::new(),
    }
}

/// Whether it is a run of the job with all the values that were given now, and not left to their
/// defaults.
fn has_what_was_given(job: &Job, instance: &Instance, run: &str) -> bool {
    let Some(behind) = run.strip_prefix(&*job.name) else { return false };
    let params = match behind.bytes().next() {
        None | Some(b'#') => BTreeMap::new(),
        Some(b'(') => params_of(behind).unwrap_or_default(),
        Some(_) => return false,
    };
    instance.given.iter().all(|name| {
        let now = instance.params.get(name).and_then(Value::to_text);
        params.get(name).map(String::as_str) == now.as_deref()
    })
}

/// Whether a run has begun and not finished, and nobody has given it up.
fn is_half_done(store: &dyn Store, run: &str) -> Result<bool, RunError> {
    let checkpoints = block_on(store.load(run))?;
    let steps = checkpoints.iter().filter(|c| c.key.sink == STEP);
    let steps = steps.filter_map(|c| Some((&*c.key.partition, view::state_of(c)?.stage)));
    let (whole, steps): (Vec<_>, Vec<_>) = steps.partition(|(path, _)| *path == WHOLE_JOB);
    let has_begun = steps.iter().any(|(_, stage)| *stage != Stage::Rewound);
    let is_over = whole.iter().any(|(_, stage)| stage.is_over());
    Ok(has_begun && !is_over && block_on(store.control(run))? != Control::Cancel)
}

pub(super) fn leaves_behind(run: &str, new: &str, what: &[String]) -> RunError {
    RunError::Refused(format!(
        "'{run}' has begun and not finished, and since then the file declares other parameters: {}. \
         What was asked for is '{new}', which would begin from zero. Restore the file to go on with \
         '{run}'; run with --accept-changes to begin '{new}' all the same; or give the other up with \
         `piton cancel` or `piton reset` and its name",
        what.join("; ")
    ))
}
