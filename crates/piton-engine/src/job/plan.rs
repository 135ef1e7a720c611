//! What a run of a job would do with each step, said before it runs and without changing anything.
//!
//! The tree is walked as a run walks it, over what the store knows: a step that is over is skipped,
//! one that had begun is resumed as its `restart` says, any other is begun. What is promised of a
//! pipeline is asked of its sinks, under the name that it would run by.

mod body;

use std::collections::BTreeMap;

use futures_executor::block_on;
use piton::job::{self, JobError, POSITION, STEP, Stage, StepState, WHOLE_JOB};
use piton_core::{Control, Store, StoredPosition};
use serde::Serialize;

use super::{
    changed::{self, Change},
    definition::{Action, Body, Instance, Job, Reference, Restart, Step, StepFact, Value},
    foreseen, orphan, run,
    walk::Order,
};
pub use crate::plan::Refusal;
use crate::{config::WhenHeld, run::RunError};

/// Of how many steps beside each other it is said which may run at once.
const MOST_BESIDE: usize = 200;

/// What a run of a job would do.
#[derive(Debug, Clone, Serialize)]
pub struct JobPlan {
    /// The name under which the store has the run, or would have it.
    pub job: String,
    /// Where the store is; `None` if it is not there yet.
    pub store: Option<String>,
    /// How many steps may be at work at once.
    pub parallel: usize,
    /// Whether it had finished: a run does nothing.
    pub is_finished: bool,
    /// What has changed in the definition since the run began, each in a sentence.
    pub changes: Vec<String>,
    /// What a run would wait for before it begins.
    pub waits: Option<String>,
    /// Why a run would be refused, if it would.
    pub refusal: Option<Refusal>,
    /// The steps, in the order of the file.
    pub steps: Vec<StepPlan>,
}

/// What a run would do with one step.
#[derive(Debug, Clone, Serialize)]
pub struct StepPlan {
    /// Its path: `customer/invoice`.
    pub step: String,
    /// How deep it stands in the tree; 0 at the top.
    pub depth: usize,
    /// What it is: `group`, `pipeline`, `sql`, `command`, `for_each`.
    pub kind: &'static str,
    /// What it reads, where its statements are executed, or the program that it starts.
    pub what: Option<String>,
    /// What a run does with it.
    pub next: Next,
    /// Why, where that does not go without saying.
    pub why: Option<String>,
    /// Its place in the order in which steps begin, from 1; `None` for what does not begin.
    pub order: Option<usize>,
    /// Paths of the steps that have to be done first, besides those above it.
    pub after: Vec<String>,
    /// Paths of the steps beside it that may be at work while it is.
    pub beside: Vec<String>,
    /// Which attempt it would be, from 1.
    pub attempt: Option<u32>,
    /// Where it resumes, as a person reads it.
    pub position: Option<String>,
    /// Records that it has moved, if it resumes within records.
    pub resumes_after: Option<u64>,
    /// What holds if a crash strikes: one for each sink of a pipeline.
    pub guarantees: Vec<Promise>,
    /// Which rows a resume may touch again, for each sink of a pipeline where there are any.
    pub touches_again: Vec<String>,
    /// What has changed in what it reads, and what a run makes of that, each in a sentence.
    pub changes: Vec<String>,
    /// What is done first, because it had begun and not finished.
    pub recovers: Option<Recovers>,
    /// Why it would not begin, as things are now; steps before it may change them.
    pub refusal: Option<Refusal>,
}

/// What a run does with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Nothing: it is done, or an operator says that it counts as done.
    Skipped,
    /// Nothing: its `when` is false.
    PassedOver,
    /// It goes on where it stands.
    Resumed,
    /// What it does itself is done, and it goes on with what is below it.
    Opened,
    /// It had begun, and starts over, with all below it.
    BegunAnew,
    /// It begins.
    Begun,
    /// It had begun, and an operator has to decide (`restart: manual`): the run ends there.
    Refused,
    /// It begins for each record of the `for_each` above it.
    ForEach,
}

impl Next {
    /// Whether a run does something with it.
    fn is_work(self) -> bool {
        !matches!(self, Self::Skipped | Self::PassedOver)
    }
}

/// What holds if a crash strikes.
#[derive(Debug, Clone, Serialize)]
pub struct Promise {
    /// The sink, and where it is; `None` for what has no sinks.
    pub sink: Option<String>,
    /// Which guarantee holds.
    pub guarantee: String,
    /// Why, and what is missing for more.
    pub why: String,
}

/// What recovers a step.
#[derive(Debug, Clone, Serialize)]
pub struct Recovers {
    /// `sql` or `command`.
    pub kind: &'static str,
    /// Where its statements are executed, or the program.
    pub what: String,
    /// What holds for it, for each attempt.
    pub guarantee: Promise,
}

/// Says what a run would do. `store` is an empty one where there is none yet.
///
/// # Errors
/// What looking may fail with; a refusal of the run is part of the plan.
pub fn plan(job: &Job, instance: &Instance, store: &dyn Store) -> Result<JobPlan, RunError> {
    foreseen::check(job, instance)?;
    let newest = job::newest(store, &instance.name)?;
    let run = newest.unwrap_or_else(|| instance.name.clone());
    let mut planner = Planner {
        job,
        instance,
        store,
        is_held: !block_on(store.holders(&run))?.is_empty(),
        run,
        states: BTreeMap::new(),
        positions: BTreeMap::new(),
        begun: 0,
        steps: Vec::new(),
    };
    planner.read()?;
    let changes = changed::changes(job, instance, store)?;
    if let Some(change) = &changes {
        let states = changed::reopened(job, &change.new, &|path| planner.states.get(path).cloned());
        planner.states.extend(states);
    }
    let is_finished = planner.states.get(WHOLE_JOB).is_some_and(|whole| whole.stage.is_over());
    let above = if is_finished { Above::Over(Next::Skipped) } else { Above::Goes };
    planner.level("", &job.steps, above)?;
    let left = changed::left_behind(job, instance, store)?;
    let left = left.map(|(run, what)| changed::leaves_behind(&run, &instance.name, &what));
    let refused = |change: &Change| changed::changed(&change.run, &change.what.join("; "));
    let changed = left.or_else(|| changes.as_ref().map(refused)).map(|error| refusal(&error));
    let (waits, held) = planner.held_back()?;
    let aged = super::age::refuse_old(job, &planner.run, store).err();
    let aged = aged.filter(|_| !is_finished).map(|error| refusal(&error));
    let refusal = changed.or(held).or(aged).or_else(|| planner.first_refusal());
    let mut steps = planner.steps;
    steps.sort_by_cached_key(|(at, _)| at.clone());
    Ok(JobPlan {
        job: planner.run,
        store: Some(store.location()),
        parallel: job.parallel.get(),
        is_finished,
        changes: changes.map_or_else(Vec::new, |change| change.what),
        waits,
        refusal,
        steps: steps.into_iter().map(|(_, step)| step).collect(),
    })
}

/// What is planned for whatever is above a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Above {
    /// It goes on.
    Goes,
    /// It begins anew: nothing counts that is stored of what is below.
    Anew,
    /// It runs what is below once for each record.
    ForEach,
    /// It does nothing, so that nothing below begins.
    Over(Next),
}

struct Planner<'a> {
    job: &'a Job,
    instance: &'a Instance,
    store: &'a dyn Store,
    /// The name under which the store has the run.
    run: String,
    is_held: bool,
    states: BTreeMap<String, StepState>,
    positions: BTreeMap<String, StoredPosition>,
    /// How many steps have begun before.
    begun: usize,
    /// Each with its place in the file: the number of each step above it, and its own.
    steps: Vec<(Vec<usize>, StepPlan)>,
}

impl Planner<'_> {
    fn read(&mut self) -> Result<(), RunError> {
        for checkpoint in block_on(self.store.load(&self.run))? {
            let Some(position) = checkpoint.position else { continue };
            let path = checkpoint.key.partition;
            match checkpoint.key.sink.as_str() {
                STEP => {
                    let state = position.read::<StepState>().map_err(|error| {
                        let step = format!("step '{path}' of '{}'", self.run);
                        RunError::Refused(format!("what is stored of {step} is damaged: {error}"))
                    })?;
                    self.states.insert(path, state);
                }
                POSITION => drop(self.positions.insert(path, position)),
                _ => {}
            }
        }
        Ok(())
    }

    /// What a run would wait for, or why it would not begin.
    fn held_back(&self) -> Result<(Option<String>, Option<Refusal>), RunError> {
        let name = &self.run;
        if let Some(holder) = block_on(self.store.holders(name))?.into_iter().next() {
            if self.job.claim.when_held == WhenHeld::Wait {
                let waits = format!("it runs now: a run would wait for {holder} to end");
                return Ok((Some(waits), None));
            }
            let left = orphan::left_by(self.store, name, &holder)?;
            let held = RunError::Held { pipeline: name.clone(), holder };
            let error = left.map_or(held, RunError::Locked);
            return Ok((None, Some(refusal(&error))));
        }
        Ok(match block_on(self.store.control(name))? {
            Control::Run => (None, None),
            Control::Pause => {
                (Some(format!("it is paused: a run waits for `piton resume {name}`")), None)
            }
            Control::Cancel => (None, Some(refusal(&run::cancelled(name)))),
        })
    }

    /// What the first step that would begin is refused for: nothing changes before it.
    fn first_refusal(&self) -> Option<Refusal> {
        let begins = |step: &&StepPlan| step.next.is_work() && step.kind != "group";
        let steps = self.steps.iter().map(|(_, step)| step);
        let first = steps.filter(begins).min_by_key(|step| step.order)?;
        let found = first.refusal.as_ref()?;
        let what = format!("step '{}': {}", first.step, found.what);
        Some(Refusal { exit_code: found.exit_code, what })
    }

    /// Plans steps that stand beside each other, in the order in which they would begin.
    fn level(&mut self, under: &str, steps: &[Step], above: Above) -> Result<(), RunError> {
        let places: BTreeMap<&str, usize> =
            steps.iter().enumerate().map(|(place, step)| (&*step.name, place)).collect();
        let tree = self.steps.iter().rev().find(|(_, step)| step.step == under);
        let tree = tree.map_or_else(Vec::new, |(at, _)| at.clone());
        let beside = self.beside(steps);
        for step in in_order(steps) {
            let place = places[&*step.name];
            let mut at = tree.clone();
            at.push(place);
            let mut planned = self.step(step, above)?;
            if planned.next.is_work() {
                planned.beside = beside.get(place).cloned().unwrap_or_default();
            }
            let next = planned.next;
            self.steps.push((at, planned));
            self.level(&step.path, &step.steps, below(step, next, above))?;
        }
        Ok(())
    }

    /// Which of the steps that stand beside each other may be at work while one is.
    fn beside(&self, steps: &[Step]) -> Vec<Vec<String>> {
        if self.job.parallel.get() == 1 || steps.len() > MOST_BESIDE {
            return Vec::new();
        }
        let before: Vec<Vec<&str>> = steps.iter().map(|step| before(steps, step)).collect();
        let is_apart = |a: usize, b: usize| {
            let comes_after = |a: usize, b: usize| before[a].contains(&steps[b].name.as_str());
            a != b && !comes_after(a, b) && !comes_after(b, a)
        };
        let may_run = |path: &str| self.states.get(path).is_none_or(|state| !state.stage.is_over());
        let apart = |a: usize| {
            let others = (0..steps.len()).filter(|b| is_apart(a, *b) && may_run(&steps[*b].path));
            others.map(|b| steps[b].path.clone()).collect()
        };
        (0..steps.len()).map(apart).collect()
    }

    fn step(&mut self, step: &Step, above: Above) -> Result<StepPlan, RunError> {
        let (next, why) = self.next(step, above)?;
        let mut planned = StepPlan {
            step: step.path.clone(),
            depth: step.path.matches('/').count(),
            kind: kind(&step.body),
            what: None,
            next,
            why,
            order: None,
            after: step.after.iter().map(|name| beside_of(step, name)).collect(),
            beside: Vec::new(),
            attempt: None,
            position: None,
            resumes_after: None,
            guarantees: Vec::new(),
            touches_again: Vec::new(),
            changes: Vec::new(),
            recovers: None,
            refusal: None,
        };
        if !next.is_work() {
            return Ok(planned);
        }
        self.begun += 1;
        planned.order = Some(self.begun);
        let state = self.states.get(&step.path).filter(|_| next != Next::ForEach);
        planned.attempt = match next {
            Next::Begun | Next::ForEach | Next::Opened => None,
            _ => state.map(|state| state.attempt + 1),
        };
        if next == Next::Resumed {
            planned.position = self.positions.get(&step.path).map(super::view::told);
        }
        if let (Next::Resumed | Next::BegunAnew, Some(action)) = (next, &step.on_recover) {
            planned.recovers = Some(self.recovers(step, action));
        }
        if next == Next::Refused {
            planned.refusal = Some(self.left_to_operator(step));
        }
        if let Some(crashes) = state.filter(|_| next.is_work()).and_then(StepState::parked) {
            let (job, step) = (self.run.clone(), step.path.clone());
            planned.refusal = Some(refusal(&run::of_job(JobError::Parked { job, step, crashes })));
        }
        if next != Next::Opened {
            self.body(step, &mut planned);
        }
        Ok(planned)
    }

    fn next(&self, step: &Step, above: Above) -> Result<(Next, Option<String>), RunError> {
        if let Above::Over(next) = above {
            return Ok((next, None));
        }
        if let Some(when) = &step.when {
            let is_known =
                !when.references().iter().any(|of| matches!(of, Reference::Record { .. }));
            let holds = || {
                let value = |reference: &Reference| self.instance.value(reference);
                let at = (self.job.file.display(), &step.path);
                let named = |why| format!("{}: step '{}': when: {why}", at.0, at.1);
                when.holds(&value).map_err(|why| RunError::Settings(named(why)))
            };
            if is_known && !holds()? {
                return Ok((Next::PassedOver, Some(format!("when: {}", when.text()))));
            }
        }
        if above == Above::ForEach {
            return Ok((Next::ForEach, None));
        }
        let state = self.states.get(&step.path).filter(|_| above == Above::Goes);
        let is_open = |state: &StepState| {
            let goes_on = state.body_done && step.restart != Restart::FromBeginning;
            state.stage == Stage::Running && (state.reopened || goes_on)
        };
        if state.is_some_and(is_open) && !step.steps.is_empty() {
            return Ok((Next::Opened, None));
        }
        Ok(match state.map(|state| (state.stage, &state.why)) {
            None | Some((Stage::Rewound, _)) => (Next::Begun, None),
            Some((Stage::Done, _)) => (Next::Skipped, None),
            Some((Stage::Skipped, why)) => (Next::Skipped, why.clone()),
            Some((Stage::Running | Stage::Failed, why)) => match step.restart {
                Restart::FromPosition => (Next::Resumed, why.clone()),
                Restart::FromBeginning => (Next::BegunAnew, why.clone()),
                Restart::Manual => (Next::Refused, why.clone()),
            },
        })
    }

    fn left_to_operator(&self, step: &Step) -> Refusal {
        let (job, path) = (&self.run, &step.path);
        refusal(&RunError::Refused(format!(
            "it had begun and not finished, and is declared `restart: manual`: see what it has \
             left, then `piton rewind {job} --to {path}` to begin it anew, or `piton mark-done \
             {job} {path}`"
        )))
    }

    /// A value that is known before the run, or something in its place.
    fn value(&self, step: &Step, reference: &Reference) -> Value {
        let state = self.states.get(&step.path);
        match reference {
            Reference::Param(_) => self.instance.value(reference).unwrap_or(Value::Null),
            Reference::Step(StepFact::Attempt) => {
                Value::Integer(i64::from(state.map_or(0, |state| state.attempt)) + 1)
            }
            Reference::Step(StepFact::StartedAt) => {
                let began = state.and_then(|state| state.started_at);
                Value::Text(began.unwrap_or_else(jiff::Timestamp::now).to_string())
            }
            Reference::Step(StepFact::Position) => {
                let position = self.positions.get(&step.path);
                position.map_or(Value::Null, |position| Value::Text(position.json.clone()))
            }
            Reference::Record { .. } => Value::Text(reference.to_string().replace('.', "_")),
        }
    }

    fn recovers(&self, step: &Step, action: &Action) -> Recovers {
        match action {
            Action::Run(command) => Recovers {
                kind: "command",
                what: command.named.clone(),
                guarantee: body::of_a_command(),
            },
            Action::Sql(sql) => {
                let (what, guarantee) = self.statements(step, sql);
                let guarantee = guarantee.unwrap_or_else(|refusal| Promise {
                    sink: None,
                    guarantee: "refused".to_owned(),
                    why: refusal.what,
                });
                Recovers { kind: "sql", what, guarantee }
            }
        }
    }
}

/// What holds for the steps below one.
fn below(step: &Step, next: Next, above: Above) -> Above {
    match (next, above) {
        (Next::Skipped | Next::PassedOver, _) => Above::Over(next),
        (_, Above::ForEach) => Above::ForEach,
        _ if matches!(step.body, Body::ForEach(_)) => Above::ForEach,
        (Next::BegunAnew, _) | (_, Above::Anew) => Above::Anew,
        _ => Above::Goes,
    }
}

/// Steps that stand beside each other in the order in which they begin, one at a time.
fn in_order(steps: &[Step]) -> Vec<&Step> {
    let mut order = Order::of(steps);
    let mut ordered = Vec::with_capacity(steps.len());
    while let Some(step) = order.next() {
        order.done(&step.name);
        ordered.push(step);
    }
    ordered
}

/// The names of all that have to be done before a step, of those beside it.
fn before<'a>(steps: &'a [Step], step: &'a Step) -> Vec<&'a str> {
    let mut found: Vec<&str> = step.after.iter().map(String::as_str).collect();
    let mut next = 0;
    while let Some(name) = found.get(next).copied() {
        next += 1;
        let of = steps.iter().find(|step| step.name == name);
        for name in of.iter().flat_map(|step| &step.after) {
            if !found.contains(&name.as_str()) {
                found.push(name);
            }
        }
    }
    found
}

/// The path of a step beside this one.
fn beside_of(step: &Step, name: &str) -> String {
    match step.path.rsplit_once('/') {
        Some((parent, _)) => format!("{parent}/{name}"),
        None => name.to_owned(),
    }
}

fn kind(body: &Body) -> &'static str {
    match body {
        Body::Group => "group",
        Body::Pipeline(_) => "pipeline",
        Body::Sql(_) => "sql",
        Body::Run(_) => "command",
        Body::ForEach(_) => "for_each",
    }
}

fn refusal(error: &RunError) -> Refusal {
    Refusal { exit_code: error.exit_code(), what: error.to_string() }
}
