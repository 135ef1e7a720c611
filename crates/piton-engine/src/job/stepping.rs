//! What every step has: it is begun or passed over, recovered, tried again, and noted as done.

use std::{borrow::Cow, sync::Mutex, time::Instant};

use piton::job::{Beginning, Begun, Stage, Start, Work};
use piton_connectors::sql_statements::Executed;
use piton_core::fault;

use super::{
    body::{self, Marked, Purpose},
    definition::{
        Action, Body, Instance, Job, OnJobComplete, Reference, Restart, Step, StepFact, Value,
    },
    run::{Course, Happened, of_job},
    walk::Went,
};
use crate::run::RunError;

/// A record of a `for_each`, by the name under which steps know it.
#[derive(Debug)]
pub(super) struct Parent<'a> {
    pub(super) name: &'a str,
    pub(super) fields: Vec<(String, Value)>,
    /// Its stable id; another one in each generation of the step.
    pub(super) id: String,
    /// The path of the step whose parent it is.
    pub(super) at: &'a str,
    /// Which of those that are beside each other it is.
    pub(super) slot: usize,
    /// Marks that its steps have left in databases.
    pub(super) marks: Mutex<Vec<Marked>>,
}

/// The values that a step can refer to.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    instance: &'a Instance,
    parent: Option<&'a Parent<'a>>,
    above: Option<&'a Scope<'a>>,
}

impl<'a> Scope<'a> {
    pub(super) fn of(instance: &'a Instance) -> Self {
        Self { instance, parent: None, above: None }
    }

    /// The scope of steps that are done for a parent.
    pub(super) fn below<'b>(&'b self, parent: &'b Parent<'b>) -> Scope<'b> {
        Scope { instance: self.instance, parent: Some(parent), above: Some(self) }
    }

    pub(super) fn parent(&self) -> Option<&'a Parent<'a>> {
        self.parent
    }

    /// For which parents a step is done, from the outermost on; `None` where there are none.
    pub(super) fn parent_id(&self) -> Option<String> {
        let parent = self.parent?;
        let above = self.above.and_then(Scope::parent_id);
        Some(above.map_or_else(|| parent.id.clone(), |above| format!("{above} / {}", parent.id)))
    }

    /// The path of the outermost `for_each` that steps are done for.
    pub(super) fn outermost(&self) -> Option<&'a str> {
        self.above.and_then(Scope::outermost).or(self.parent.map(|parent| parent.at))
    }

    /// The path of a step's checkpoint: the step's own, where one parent is done at a time.
    pub(super) fn path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let (mut named, mut scope) = (Cow::Borrowed(path), Some(self));
        while let Some((of, parent)) = scope.and_then(|scope| Some((scope, scope.parent?))) {
            if let Some(rest) = named.strip_prefix(parent.at).filter(|_| parent.slot > 0) {
                named = Cow::Owned(format!("{}#{}{rest}", parent.at, parent.slot));
            }
            scope = of.above;
        }
        named
    }

    /// The fields of the parents, as a command finds them: `PITON_CUSTOMER_ID`.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let mut found = self.above.map(Scope::environment).unwrap_or_default();
        let word =
            |text: &str| text.to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        if let Some(parent) = self.parent {
            for (field, value) in &parent.fields {
                if let Some(text) = value.to_text().filter(|text| !text.contains('\0')) {
                    let name = format!("PITON_{}_{}", word(parent.name), word(field));
                    found.push((name, text.into_owned()));
                }
            }
        }
        found
    }

    /// A value, in a step that was begun.
    pub(super) fn value(&self, begun: &Begun, reference: &Reference) -> Option<Value> {
        match reference {
            Reference::Param(_) => self.instance.value(reference),
            Reference::Step(fact) => Some(fact_of(begun, *fact)),
            Reference::Record { name, field } => self.field(name, field),
        }
    }

    fn field(&self, name: &str, field: &str) -> Option<Value> {
        match self.parent.filter(|parent| parent.name == name) {
            Some(parent) => {
                let found = parent.fields.iter().find(|(known, _)| known == field);
                Some(found.map_or(Value::Null, |(_, value)| value.clone()))
            }
            None => self.above?.field(name, field),
        }
    }
}

fn fact_of(begun: &Begun, fact: StepFact) -> Value {
    match fact {
        StepFact::Attempt => Value::Integer(begun.attempt.into()),
        StepFact::StartedAt => Value::Text(begun.before.unwrap_or(begun.started_at).to_string()),
        StepFact::Position => begun.position.as_ref().map_or(Value::Null, |position| {
            // The text that a command has kept, or the JSON of any other position.
            let text = position.read::<String>();
            Value::Text(text.unwrap_or_else(|_| position.json.clone()))
        }),
    }
}

impl Course<'_> {
    /// Waits while an operator has paused the job, unless it is asked to stop.
    pub(super) fn heed(&self) -> Result<(), RunError> {
        let goes_on = || !self.signal.is_stopping();
        self.heartbeat.heed(&self.steps, &goes_on).or_else(|error| match error {
            // The thread that listens tells the others.
            piton::job::JobError::Cancelled { .. } => Ok(()),
            error => Err(of_job(error)),
        })
    }

    /// Does a step and all below it, unless it is done.
    pub(super) fn step(&self, step: &Step, scope: &Scope<'_>) -> Result<Went, RunError> {
        self.heed()?;
        if self.signal.is_stopping() {
            return Ok(Went::Stopped);
        }
        if !self.is_wanted(step, scope)? {
            self.tell_of(step, scope, &Happened::PassedOver);
            return Ok(Went::Done);
        }
        let began = Instant::now();
        let path = scope.path(&step.path);
        let parent = scope.parent_id();
        let progress = if parent.is_none() { body::progress(self, step)? } else { 0 };
        let start = Start { work: work_of(step), progress, parent: parent.as_deref() };
        let begun = match self.steps.begin(&path, start).map_err(of_job)? {
            Beginning::Over(Stage::Skipped) => {
                self.tell_of(step, scope, &Happened::PassedOver);
                return Ok(Went::Done);
            }
            Beginning::Over(_) => {
                self.tell_of(step, scope, &Happened::WasDone);
                return Ok(Went::Done);
            }
            Beginning::Begun(begun) => begun,
        };
        let (attempt, recovering) = (begun.attempt, begun.recovering);
        fault::point("step.begin");
        self.tell_of(step, scope, &Happened::Began { attempt, recovering });
        match self.until_done(step, scope, &begun) {
            Ok((Went::Done, records)) => {
                fault::point("step.done");
                self.steps.done(&path).map_err(of_job)?;
                self.tell_of(step, scope, &Happened::Done { took: began.elapsed(), records });
                Ok(Went::Done)
            }
            Ok((Went::Stopped, _)) => {
                self.steps.stopped(&path).map_err(of_job)?;
                Ok(Went::Stopped)
            }
            Err(error) => Err(self.failed(step, scope, &begun, error)),
        }
    }

    /// Of steps that are done for each of many parents only their failures are told.
    fn tell_of(&self, step: &Step, scope: &Scope<'_>, happened: &Happened) {
        if scope.parent.is_none() {
            self.tell(&step.path, happened);
        }
    }

    fn is_wanted(&self, step: &Step, scope: &Scope<'_>) -> Result<bool, RunError> {
        let Some(when) = &step.when else { return Ok(true) };
        let value = |reference: &Reference| match reference {
            Reference::Step(_) => None,
            reference => scope.value(&nothing(), reference),
        };
        when.holds(&value).map_err(|why| self.settings(step, &format!("when: {why}")))
    }

    fn settings(&self, step: &Step, what: &str) -> RunError {
        RunError::Settings(format!("{}: step '{}': {what}", self.job.file.display(), step.path))
    }

    /// Recovers, does the body and the steps below, and tries again as often as it may.
    fn until_done(
        &self,
        step: &Step,
        scope: &Scope<'_>,
        begun: &Begun,
    ) -> Result<(Went, Option<u64>), RunError> {
        let mut begun = begun.clone();
        if begun.recovering {
            begun = match self.recover(step, scope, begun) {
                Err(RunError::Failed(_)) if self.signal.is_stopping() => {
                    return Ok((Went::Stopped, None));
                }
                recovered => recovered?,
            };
        }
        let mut failures = 0;
        loop {
            let error = match self.attempt(step, scope, &begun) {
                Ok(went) => return Ok(went),
                Err(error) => error,
            };
            let retried = matches!(error, RunError::Failed(_) | RunError::BadRecord { .. });
            if retried && self.signal.is_stopping() {
                return Ok((Went::Stopped, None));
            }
            failures += 1;
            let pause = step.retry.pause_after(failures).filter(|_| retried);
            let Some(pause) = pause else { return Err(error) };
            self.tell(&step.path, &Happened::Retries { why: error.to_string(), pause });
            if !self.signal.sleep(pause) {
                return Ok((Went::Stopped, None));
            }
            begun.position = self.steps.kept(&scope.path(&step.path)).map_err(of_job)?;
        }
    }

    /// Puts right what an earlier attempt has left, and says from where the step goes on.
    fn recover(&self, step: &Step, scope: &Scope<'_>, begun: Begun) -> Result<Begun, RunError> {
        match step.restart {
            // Its transaction was committed: nothing of it is half done.
            Restart::FromPosition if body::is_marked(self, step, scope, &begun)? => {
                return Ok(begun);
            }
            Restart::FromPosition => {}
            Restart::Manual => {
                let (job, path) = (self.steps.job(), &step.path);
                return Err(RunError::Refused(format!(
                    "step '{path}' of '{job}' had begun and not finished, and is declared `restart: \
                     manual`: see what it has left, then `piton rewind {job} --to {path}` to \
                     begin it anew, or `piton mark-done {job} {path}`"
                )));
            }
            Restart::FromBeginning => {}
        }
        // It is told where the attempt before stood, also when that is forgotten.
        let position = match &begun.position {
            Some(position) => Some(position.clone()),
            None => body::position(self, step, scope)?,
        };
        let told = Begun { position, ..begun.clone() };
        let begun = match step.restart {
            Restart::FromBeginning => body::forget(self, step, scope, &begun)?,
            _ => begun,
        };
        if let Some(action) = &step.on_recover {
            self.act(step, scope, &told, Purpose::Recover, action)?;
        }
        Ok(begun)
    }

    fn attempt(
        &self,
        step: &Step,
        scope: &Scope<'_>,
        begun: &Begun,
    ) -> Result<(Went, Option<u64>), RunError> {
        let (went, records) = match &step.body {
            Body::Group => (Went::Done, None),
            // Its own steps wait for their turn, or it says itself how many are beside each other.
            body @ Body::ForEach(_) => body::run(self, step, body, scope, begun)?,
            body if scope.parent.is_some() => body::run(self, step, body, scope, begun)?,
            body => self.permits.with(|| body::run(self, step, body, scope, begun))?,
        };
        fault::point("step.body");
        if went == Went::Stopped {
            return Ok((went, records));
        }
        let went = match &step.body {
            // It has run the steps below it for each parent.
            Body::ForEach(_) => Went::Done,
            _ => self.level(&step.steps, scope)?,
        };
        if let (Went::Done, Some(action)) = (went, &step.on_complete) {
            self.act(step, scope, begun, Purpose::Complete, action)?;
        }
        Ok((went, records))
    }

    /// Does what is to be done beside a step.
    fn act(
        &self,
        step: &Step,
        scope: &Scope<'_>,
        begun: &Begun,
        purpose: Purpose,
        action: &Action,
    ) -> Result<(), RunError> {
        match action {
            Action::Sql(sql) => {
                let executed = body::sql(self, step, sql, scope, begun, purpose)?;
                match executed {
                    Executed::Done { .. } | Executed::WasDone { .. } => Ok(()),
                    Executed::Fenced { epoch } => Err(self.fenced_by(epoch.0)),
                }
            }
            Action::Run(command) => match body::command(self, step, command, scope, begun)? {
                Went::Done => Ok(()),
                Went::Stopped => Err(RunError::Failed(format!(
                    "step '{}' was stopped while it was {}",
                    step.path,
                    purpose.doing()
                ))),
            },
        }
    }

    pub(super) fn fenced_by(&self, epoch: u64) -> RunError {
        RunError::Fenced { pipeline: self.steps.job().to_owned(), what: format!("epoch {epoch}") }
    }

    /// Notes that a step has failed for good, and does what is to be done then.
    fn failed(&self, step: &Step, scope: &Scope<'_>, begun: &Begun, error: RunError) -> RunError {
        if matches!(error, RunError::Fenced { .. }) {
            return error;
        }
        let why = error.to_string();
        self.tell(&step.path, &Happened::Failed { why: why.clone() });
        if let Some(action) = &step.on_failure
            && let Err(other) = self.act(step, scope, begun, Purpose::Failure, action)
        {
            (self.options.on_notice)(&format!(
                "step '{}': what is to be done when it fails has failed, too: {other}",
                step.path
            ));
        }
        match self.steps.failed(&scope.path(&step.path), &why) {
            Ok(()) => in_step(&step.path, error),
            Err(other) => of_job(other),
        }
    }

    /// Does what is to be done once a job has failed or is done.
    pub(super) fn follow_up(&self, went: &Result<Went, RunError>) -> Result<(), RunError> {
        let (action, purpose) = match (went, &self.job.on_failure, &self.job.on_complete) {
            (Ok(Went::Done), _, OnJobComplete::Action(action)) => (action, Purpose::Complete),
            (Err(RunError::Failed(_) | RunError::BadRecord { .. }), Some(action), _) => {
                (action, Purpose::Failure)
            }
            _ => return Ok(()),
        };
        let step = whole(self.job);
        let state = self.steps.state(piton::job::WHOLE_JOB);
        // Once for each run that comes to this; its completion once, until it begins anew.
        let begun = Begun {
            generation: state.map_or(0, |state| state.generation),
            attempt: u32::try_from(self.steps.held().epoch.0).unwrap_or(u32::MAX),
            ..nothing()
        };
        self.act(&step, &Scope::of(self.instance), &begun, purpose, action)
    }
}

/// Names the step in front of what it failed with, once.
fn in_step(path: &str, error: RunError) -> RunError {
    let named = |what: String| {
        if what.starts_with("step '") { what } else { format!("step '{path}': {what}") }
    };
    match error {
        RunError::Failed(what) => RunError::Failed(named(what)),
        RunError::Settings(what) => RunError::Settings(named(what)),
        RunError::Refused(what) => RunError::Refused(named(what)),
        error => error,
    }
}

/// The job as a step, for what is done beside it.
fn whole(job: &Job) -> Step {
    Step {
        name: job.name.clone(),
        path: piton::job::WHOLE_JOB.to_owned(),
        at: job.store_at,
        after: Vec::new(),
        when: None,
        body: Body::Group,
        steps: Vec::new(),
        restart: Restart::default(),
        retry: super::definition::Retry::default(),
        timeout: None,
        on_recover: None,
        on_failure: None,
        on_complete: None,
    }
}

/// A step that was not begun, where only parameters and parents can be referred to.
fn nothing() -> Begun {
    Begun {
        generation: 0,
        attempt: 1,
        recovering: false,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        before: None,
        position: None,
    }
}

/// What its beginning has to make sure of.
fn work_of(step: &Step) -> Work {
    let acts = [&step.on_recover, &step.on_failure, &step.on_complete];
    let has_none = acts.iter().all(|action| action.is_none());
    match step.body {
        Body::Run(_) => Work::Command,
        _ if acts.iter().any(|action| matches!(action, Some(Action::Run(_)))) => Work::Command,
        Body::Sql(_) if has_none && step.steps.is_empty() => Work::Transaction,
        _ => Work::Any,
    }
}
