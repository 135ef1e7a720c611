//! What every step has: it is begun or passed over, recovered, tried again, and noted as done.

use std::{borrow::Cow, sync::Mutex, time::Instant};

use piton::job::{Beginning, Begun, Stage, Start, WHOLE_JOB, Work};
use piton_connectors::sql_statements::Executed;
use piton_core::fault;

use super::{
    body::{self, Marked, Purpose},
    definition::{
        Action, Body, Instance, Job, OnJobComplete, Reference, Restart, Step, StepFact, Value,
    },
    run::{Course, Failure, Happened, all_of, of_job},
    said::{in_action, in_step, why, with_what},
    walk::Went,
};
use crate::run::RunError;

/// The longest variable of an environment that Linux takes, with its name, in bytes.
const LONGEST_VARIABLE: usize = 128 * 1024;

/// A record of a `for_each`, by the name under which steps know it.
#[derive(Debug)]
pub(super) struct Parent<'a> {
    pub(super) name: &'a str,
    pub(super) fields: Vec<(String, Value)>,
    /// Its stable id.
    pub(super) id: String,
    /// Which beginning of the step whose parent it is this is.
    pub(super) generation: u64,
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

    /// For which parents a step is done, from the outermost on; `None` where there are none. What was
    /// noted for them before their step began anew is of others.
    pub(super) fn parent_id(&self) -> Option<String> {
        self.ids(&|parent| match parent.generation {
            0 => parent.id.clone(),
            generation => format!("{}~{generation}", parent.id),
        })
    }

    /// The same, however often their step has begun anew.
    pub(super) fn record_id(&self) -> Option<String> {
        self.ids(&|parent| parent.id.clone())
    }

    fn ids(&self, id: &dyn Fn(&Parent<'_>) -> String) -> Option<String> {
        let parent = id(self.parent?);
        let above = self.above.and_then(|above| above.ids(id));
        Some(above.map_or_else(|| parent.clone(), |above| format!("{above} / {parent}")))
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
                    // A longer one would keep the command from being started at all.
                    if name.len() + text.len() + 2 <= LONGEST_VARIABLE {
                        found.push((name, text.into_owned()));
                    }
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

    /// What is said of a step, with the record that it is done for.
    fn of_record(&self, what: &str) -> String {
        match self.parent {
            Some(parent) => format!("{} {}: {what}", parent.name, parent.id),
            None => what.to_owned(),
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

/// What came of beginning a step and doing it.
enum Attempt {
    Went(Went),
    /// Also why the attempt before had failed.
    Failed(Box<Begun>, RunError, Option<String>),
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

    /// Does a step and all below it, unless it is done, and tries again as often as it may. Each try
    /// is an attempt of its own, as if the job had been run again.
    pub(super) fn step(&self, step: &Step, scope: &Scope<'_>) -> Result<Went, RunError> {
        let mut failures = 0;
        loop {
            self.heed()?;
            // What is at work comes to its end: a step with its tries, a record with its steps.
            let is_late = failures == 0 && scope.parent.is_none() && self.begins_no_more();
            if is_late || self.stops(&step.path) {
                return Ok(Went::Stopped);
            }
            let (begun, error, before) = match self.attempt(step, scope)? {
                Attempt::Went(went) => return Ok(went),
                Attempt::Failed(begun, error, before) => (begun, error, before),
            };
            failures += 1;
            let pause = step.retry.pause_after(failures).filter(|_| self.is_retried(step, &error));
            let Some(pause) = pause else {
                return Err(self.failed(step, scope, &begun, error, before));
            };
            let why = why(step, &error.to_string());
            self.steps.failed(&scope.path(&step.path), &why).map_err(of_job)?;
            let why = scope.of_record(&why);
            self.tell(&step.path, &Happened::Retries { why, pause });
            if !self.sleep(&step.path, pause) {
                return Ok(Went::Stopped);
            }
        }
    }

    /// Whether a step is tried again by itself after it has failed with this. What has failed below
    /// it was tried again there.
    fn is_retried(&self, step: &Step, error: &RunError) -> bool {
        let is_below = |failed: &Failure| {
            failed.path.strip_prefix(&step.path).is_some_and(|rest| rest.starts_with('/'))
        };
        matches!(error, RunError::Failed(_) | RunError::BadRecord { .. })
            && step.restart != Restart::Manual
            && !self.failures().iter().any(is_below)
    }

    /// Begins a step, unless it is over, and does it and all below it once.
    fn attempt(&self, step: &Step, scope: &Scope<'_>) -> Result<Attempt, RunError> {
        if !self.is_wanted(step, scope)? {
            self.tell_of(step, scope, &Happened::PassedOver);
            return Ok(Attempt::Went(Went::Done));
        }
        let began = Instant::now();
        let path = scope.path(&step.path);
        let parent = scope.parent_id();
        self.refuse_manual(step, scope)?;
        let progress = if parent.is_none() { body::progress(self, step)? } else { 0 };
        let start = Start { work: work_of(step), progress, parent: parent.as_deref() };
        let before = self.steps.state(&path).filter(|before| before.parent == parent);
        let begun = match self.steps.begin(&path, start).map_err(of_job)? {
            Beginning::Over(stage) => {
                let is_skipped = stage == Stage::Skipped;
                let was = if is_skipped { Happened::PassedOver } else { Happened::WasDone };
                self.tell_of(step, scope, &was);
                return Ok(Attempt::Went(Went::Done));
            }
            Beginning::Begun(begun) => begun,
        };
        let (attempt, recovering) = (begun.attempt, begun.recovering);
        fault::point("step.begin");
        self.tell_of(step, scope, &Happened::Began { attempt, recovering });
        match self.recovered_and_done(step, scope, &begun) {
            Ok((Went::Done, records)) => {
                fault::point("step.done");
                self.steps.done(&path).map_err(of_job)?;
                self.tell_of(step, scope, &Happened::Done { took: began.elapsed(), records });
                Ok(Attempt::Went(Went::Done))
            }
            Ok((Went::Stopped, _)) => {
                self.steps.stopped(&path).map_err(of_job)?;
                Ok(Attempt::Went(Went::Stopped))
            }
            // What was stopped may say so by an error.
            Err(RunError::Failed(_) | RunError::BadRecord { .. }) if self.stops(&step.path) => {
                self.steps.stopped(&path).map_err(of_job)?;
                Ok(Attempt::Went(Went::Stopped))
            }
            Err(error) => {
                let why = before.and_then(|before| before.why);
                Ok(Attempt::Failed(Box::new(begun), error, why))
            }
        }
    }

    /// A step that had begun and is left to an operator is not begun: that is no attempt, and why it
    /// has failed stays there to be read.
    fn refuse_manual(&self, step: &Step, scope: &Scope<'_>) -> Result<(), RunError> {
        let state = self.steps.state(&scope.path(&step.path));
        let state = state.filter(|state| state.parent == scope.parent_id());
        let Some(state) = state.filter(|_| step.restart == Restart::Manual) else { return Ok(()) };
        let is_broken = matches!(state.stage, Stage::Running | Stage::Failed) && !state.reopened;
        let begun = Begun { generation: state.generation, ..nothing() };
        if !is_broken
            || (has_more(step) && state.body_done)
            || body::is_marked(self, step, scope, &begun)?
        {
            return Ok(());
        }
        let (job, path) = (self.steps.job(), &step.path);
        Err(RunError::Refused(format!(
            "step '{path}' of '{job}' had begun and not finished, and is declared `restart: \
             manual`: see what it has left, then `piton rewind {job} --to {path}` to \
             begin it anew, or `piton mark-done {job} {path}`"
        )))
    }

    /// Of steps that are done for each of many parents only their failures are told.
    fn tell_of(&self, step: &Step, scope: &Scope<'_>, happened: &Happened) {
        if scope.parent.is_some() {
            return;
        }
        match happened {
            Happened::Done { .. } => self.counts().0 += 1,
            // With it all that is below it.
            Happened::WasDone => self.counts().1 += all_of(step),
            _ => {}
        }
        self.tell(&step.path, happened);
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

    fn recovered_and_done(
        &self,
        step: &Step,
        scope: &Scope<'_>,
        begun: &Begun,
    ) -> Result<(Went, Option<u64>), RunError> {
        let mut begun = begun.clone();
        if begun.recovering {
            begun = self.recover(step, scope, begun)?;
        }
        let (went, records) = if self.is_body_done(step, scope) {
            (Went::Done, None)
        } else {
            self.body(step, scope, &begun)?
        };
        fault::point("step.body");
        if went == Went::Stopped {
            return Ok((went, records));
        }
        let went = match &step.body {
            // It has run the steps below it for each parent.
            Body::ForEach(_) => Went::Done,
            Body::Group => self.in_time(step, || Ok((self.level(&step.steps, scope)?, ())))?.0,
            _ => self.level(&step.steps, scope)?,
        };
        if let (Went::Done, Some(action)) = (went, &step.on_complete) {
            self.act(step, scope, &begun, Purpose::Complete, action)?;
        }
        Ok((went, records))
    }

    /// Puts right what an earlier attempt has left, and says from where the step goes on.
    fn recover(&self, step: &Step, scope: &Scope<'_>, begun: Begun) -> Result<Begun, RunError> {
        let clears = step.restart == Restart::FromBeginning;
        // Nothing of what it does itself is half done; of statements the transaction was committed.
        if !clears
            && (self.is_body_done(step, scope) || body::is_marked(self, step, scope, &begun)?)
        {
            return Ok(begun);
        }
        if let Some(action) = &step.on_recover {
            let position = match &begun.position {
                Some(position) => Some(position.clone()),
                None => body::position(self, step, scope, &begun)?,
            };
            let told = Begun { position, ..begun.clone() };
            self.act(step, scope, &told, Purpose::Recover, action)?;
        }
        fault::point("step.recovered");
        // Only now: whoever recovers after a crash before this is told the same, and does the same.
        if clears { body::forget(self, step, scope, &begun) } else { Ok(begun) }
    }

    /// Whether what a step does itself was done by an earlier attempt.
    fn is_body_done(&self, step: &Step, scope: &Scope<'_>) -> bool {
        let state = || self.steps.state(&scope.path(&step.path));
        has_more(step) && state().is_some_and(|state| state.body_done)
    }

    /// Does what a step does itself.
    fn body(
        &self,
        step: &Step,
        scope: &Scope<'_>,
        begun: &Begun,
    ) -> Result<(Went, Option<u64>), RunError> {
        let (went, records) = match &step.body {
            Body::Group => (Went::Done, None),
            // Its own steps wait for their turn, or it says itself how many are beside each other.
            body @ Body::ForEach(_) => {
                self.in_time(step, || body::run(self, step, body, scope, begun))?
            }
            body if scope.parent.is_some() => body::run(self, step, body, scope, begun)?,
            body => self.permits.with(|| body::run(self, step, body, scope, begun))?,
        };
        if went == Went::Done && has_more(step) {
            self.steps.body_done(&scope.path(&step.path)).map_err(of_job)?;
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
        let stopped = || {
            let doing = purpose.doing();
            RunError::Failed(format!("step '{}' was stopped while it was {doing}", step.path))
        };
        let done = match action {
            Action::Sql(sql) => match body::sql(self, step, sql, scope, begun, purpose) {
                Ok(Executed::Fenced { epoch }) => Err(self.fenced_by(epoch.0)),
                executed => executed.map(|_| ()),
            },
            Action::Run(command) => match body::command(self, step, command, scope, begun) {
                Ok(Went::Stopped) => Err(stopped()),
                went => went.map(|_| ()),
            },
        };
        done.map_err(|error| in_action(&step.path, purpose, error))
    }

    pub(super) fn fenced_by(&self, epoch: u64) -> RunError {
        RunError::Fenced { pipeline: self.steps.job().to_owned(), what: format!("epoch {epoch}") }
    }

    /// Notes that a step has failed for good, and does what is to be done then. A refusal does not hide
    /// why it had failed before.
    fn failed(
        &self,
        step: &Step,
        scope: &Scope<'_>,
        begun: &Begun,
        error: RunError,
        before: Option<String>,
    ) -> RunError {
        if matches!(error, RunError::Fenced { .. }) {
            return error;
        }
        let why = why(step, &error.to_string());
        self.begin_no_more();
        self.failures().push(Failure { path: step.path.clone(), why: why.clone() });
        self.tell(&step.path, &Happened::Failed { why: scope.of_record(&why) });
        if let Some(action) = &step.on_failure
            && let Err(other) = self.act(step, scope, begun, Purpose::Failure, action)
        {
            (self.options.on_notice)(&format!(
                "step '{}': what is to be done when it fails has failed, too: {}",
                step.path,
                scope.of_record(&other.to_string())
            ));
        }
        let before = before.filter(|_| matches!(error, RunError::Refused(_)));
        let why = before.unwrap_or(why);
        match self.steps.failed(&scope.path(&step.path), &why) {
            Ok(()) => in_step(step, error),
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
        let step = whole(self.job, action);
        // As of any step: a command that outlives its owner is known of, and nobody takes over.
        let start = Start { work: work_of(&step), ..Start::default() };
        let begun = match self.steps.begin(WHOLE_JOB, start).map_err(of_job)? {
            Beginning::Over(_) => return Ok(()),
            Beginning::Begun(begun) => begun,
        };
        let acted = self.act(&step, &Scope::of(self.instance), &begun, purpose, action);
        let acted = acted
            .map_err(|error| with_what(error, |what| format!("'{}': {what}", self.steps.job())));
        if let (Purpose::Failure, Err(other)) = (purpose, &acted) {
            (self.options.on_notice)(&format!(
                "what is to be done when the job fails has failed, too: {other}"
            ));
        }
        let failed = went.as_ref().err().or(acted.as_ref().err()).map(ToString::to_string);
        let noted = failed.map_or(Ok(()), |why| self.steps.failed(WHOLE_JOB, &why));
        acted.and(noted.map_err(of_job))
    }
}

/// The job as a step, for what is done beside it.
fn whole(job: &Job, action: &Action) -> Step {
    Step {
        name: job.name.clone(),
        path: WHOLE_JOB.to_owned(),
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
        on_complete: Some(action.clone()),
    }
}

/// A step that was not begun, where only parameters and parents can be referred to.
pub(super) fn nothing() -> Begun {
    Begun {
        generation: 0,
        attempt: 1,
        recovering: false,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        before: None,
        position: None,
    }
}

/// Whether a step does something itself, and then something more.
fn has_more(step: &Step) -> bool {
    let has_own = !matches!(step.body, Body::Group | Body::ForEach(_));
    has_own && (!step.steps.is_empty() || step.on_complete.is_some())
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
