//! Jobs: running one, drawing its tree, and what an operator does to its steps.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, IsTerminal},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::in_shell;
use piton_engine::{
    RunOptions,
    job::{
        definition::Job,
        run::{self, Happened, JobSummary},
        steer::{self, Anew, JobSteerError},
        view::{self, StepView},
    },
    run::Signal,
    steer::{SteerError, letters},
};
use piton_stores::Mode;

use super::{
    live::Live,
    run::{listen, tell},
    steer::{confirm, output},
    step::of_job,
};
use crate::{
    args::{MarkDone, Reset, Run},
    exit::{FAILED, FINISHED, Failure, USAGE},
    opening,
    output::{count, many, note, print_json, print_json_line, records, span, table},
};

/// Runs or resumes a job.
pub(crate) fn run(args: &Run, job: &Job) -> Result<u8, Failure> {
    let instance = job.with(&params(&args.param)?);
    let instance =
        instance.map_err(|error| Failure::usage(format!("{}: {error}", args.file.display())))?;
    if args.dry_run {
        return Err(Failure::usage(
            "--dry-run is for pipelines: `piton plan` says what a job does",
        ));
    }
    let store = opening::store_of_job(job, Mode::Create)?;
    let live =
        (!args.json && io::stderr().is_terminal()).then(|| Arc::new(Live::of(job, &instance.name)));
    if let Some(live) = live.clone() {
        piton_engine::job::pass_on_by(move |bytes| live.above(bytes));
    }
    let (job_name, of_teller) = (instance.name.clone(), Arc::clone(&store));
    let teller =
        Teller { json: args.json, job: job_name, store: of_teller, run: OnceLock::new(), live };
    teller.started(&store.location());
    let signal = Arc::new(Signal::default());
    listen(&signal)?;
    let options = options(args, teller.live.clone());
    let watch = |step: &str, happened: &Happened| teller.step(step, happened);
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let drawing = teller.live.as_ref();
        let drawing = drawing.map(|live| scope.spawn(|| live.follow(&*store, &done)));
        let result = run::run(job, &instance, &store, &options, &signal, &watch);
        done.store(true, Ordering::Relaxed);
        let _ = drawing.map(thread::ScopedJoinHandle::join);
        result
    });
    match result {
        Ok(summary) => Ok(teller.ended(&summary, signal.is_cancelled(), args)),
        Err(error) => {
            teller.result("failed", error.exit_code(), Some(&error.to_string()));
            teller.remark();
            Err(error.into())
        }
    }
}

fn options(args: &Run, live: Option<Arc<Live>>) -> RunOptions {
    let json = args.json;
    let tell = move |event: &str, what: &str| match &live {
        Some(live) if !json => live.above(format!("{what}\n").as_bytes()),
        _ => tell(json, event, what),
    };
    let other = tell.clone();
    RunOptions {
        accept_changes: args.accept_changes,
        adopt: args.adopt,
        verify: args.verify,
        accept_age: args.accept_age,
        again: args.again,
        on_wait: Box::new(move |holder| {
            other("waiting", &format!("held by {holder}: waiting for it to let go"));
        }),
        on_notice: Box::new(move |what| tell("notice", what)),
        ..RunOptions::plain(opening::owner())
    }
}

/// `--param NAME=VALUE`
pub(crate) fn params(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut params = BTreeMap::new();
    for text in given {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Failure::usage(format!("--param {text}: write --param NAME=VALUE")));
        };
        if params.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("--param {name} is given twice")));
        }
    }
    Ok(params)
}

/// Tells a person, or a machine, how the run goes.
struct Teller {
    json: bool,
    job: String,
    store: Arc<dyn piton_core::Store>,
    /// Found out when a step is done.
    run: OnceLock<String>,
    /// On a terminal.
    live: Option<Arc<Live>>,
}

impl Teller {
    /// The name under which the store has the run; without its number before it has one.
    fn run(&self) -> &str {
        self.run.get_or_init(|| {
            let newest = piton::job::newest(&*self.store, &self.job);
            newest.ok().flatten().unwrap_or_else(|| self.job.clone())
        })
    }

    /// How many records a step has set aside, as far as the store says it.
    fn set_aside(&self, step: &str) -> u64 {
        let letters = block_on(self.store.dead_letters(&format!("{}/{step}", self.run())));
        letters.map_or(0, |letters| letters.len() as u64)
    }

    fn started(&self, store: &str) {
        if self.json {
            let line = serde_json::json!({ "event": "started", "job": self.job, "store": store });
            let _ = print_json_line(&line);
        } else {
            note!("store: {store}");
        }
    }

    fn step(&self, step: &str, happened: &Happened) {
        if self.json {
            self.step_json(step, happened);
            return;
        }
        if let Some(live) = &self.live {
            live.step(step, happened);
            return;
        }
        match happened {
            Happened::Began { recovering: false, .. } | Happened::WasDone => {}
            Happened::Began { attempt, .. } => {
                note!("step '{step}': had begun and not finished: attempt {attempt}");
            }
            Happened::Done { took, records: moved } => {
                let aside = moved.map_or(0, |_| self.set_aside(step));
                let aside =
                    if aside > 0 { format!("{} set aside, ", count(aside)) } else { String::new() };
                let moved = moved.map(|moved| format!("{}, ", records(moved))).unwrap_or_default();
                note!("step '{step}': done, {moved}{aside}{}", span(took.as_secs_f64()));
            }
            Happened::PassedOver => note!("step '{step}': passed over"),
            Happened::Retries { why, pause } => {
                note!("step '{step}': {why}; tried again in {}", span(pause.as_secs_f64()));
            }
            // The run ends with it.
            Happened::Failed { .. } => {}
        }
    }

    fn step_json(&self, step: &str, happened: &Happened) {
        let mut line = serde_json::json!({ "event": "step", "job": self.job, "step": step });
        let more = match happened {
            Happened::Began { attempt, recovering } => {
                serde_json::json!({ "state": "running", "attempt": attempt, "recovering": recovering })
            }
            Happened::Done { took, records } => serde_json::json!({
                "state": "done", "seconds": took.as_secs_f64(), "records": records,
                "set_aside": records.map(|_| self.set_aside(step)),
            }),
            Happened::WasDone => serde_json::json!({ "state": "was_done" }),
            Happened::PassedOver => serde_json::json!({ "state": "passed_over" }),
            Happened::Retries { why, pause } => serde_json::json!({
                "state": "retries", "error": why, "pause_seconds": pause.as_secs_f64(),
            }),
            Happened::Failed { why } => serde_json::json!({ "state": "failed", "error": why }),
        };
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        let _ = print_json_line(&line);
    }

    fn ended(&self, summary: &JobSummary, was_cancelled: bool, args: &Run) -> u8 {
        let (code, word) = match summary {
            JobSummary { was_finished: true, .. } => (FINISHED, "already_finished"),
            JobSummary { is_finished: true, .. } => (FINISHED, "finished"),
            _ if was_cancelled => (FAILED, "cancelled"),
            _ => (FAILED, "stopped"),
        };
        if self.json {
            self.result(word, code, None);
            return code;
        }
        let name = &summary.instance;
        if summary.was_finished {
            note!("'{name}' had finished already: --again begins a new run");
            return code;
        }
        if summary.were_done > 0 {
            note!("{} done before: skipped", many(summary.were_done, "step"));
        }
        let done = many(summary.done, "step");
        note!("{word}: {done} in {}", span(summary.took.as_secs_f64()));
        if code == FAILED {
            let again = if was_cancelled { " --again" } else { "" };
            note!("to resume, run: piton run {}{again}", args.file.display());
        }
        self.remark();
        code
    }

    /// Where to look for what was set aside.
    fn remark(&self) {
        if self.json {
            return;
        }
        let number = letters(&*self.store, self.run()).map_or(0, |letters| letters.len() as u64);
        if number > 0 {
            let name = in_shell(&self.job);
            note!("set aside: {}; see `piton dead-letters list {name}`", records(number));
        }
    }

    fn result(&self, word: &str, code: u8, error: Option<&str>) {
        if self.json {
            let _ = print_json_line(&serde_json::json!({
                "event": "ended", "job": self.job, "outcome": word, "exit_code": code,
                "error": error,
            }));
        }
    }
}

/// The column of what is left, if there is one.
const LEFT: usize = 5;

/// The column of records that were set aside, if there are any.
const SET_ASIDE: usize = 6;

/// The tree of a job for people.
pub(crate) fn tree(steps: &[StepView], now: Timestamp) -> String {
    // Only while something runs of which that is known.
    let has_left = steps.iter().any(|step| step.left_seconds.is_some());
    let has_set_aside = steps.iter().any(|step| step.dead_letters > 0);
    let row = |step: &StepView| {
        let name = step.step.rsplit('/').next().unwrap_or(&step.step);
        let since = step.ended_at.or(step.started_at);
        let mut cells = vec![
            format!("{}{name}", "  ".repeat(step.depth)),
            step.state.replace('_', " "),
            if step.attempt > 1 { step.attempt.to_string() } else { String::new() },
            step.records.map(count).unwrap_or_default(),
            step.rate.filter(|rate| *rate > 0.0).map(rate).unwrap_or_default(),
            step.checkpoint_age_seconds
                .or_else(|| since.map(|at| now.duration_since(at).as_secs_f64().max(0.0)))
                .map(|age| format!("{} ago", span(age)))
                .unwrap_or_default(),
            step.why.clone().or_else(|| step.position.clone()).unwrap_or_default(),
        ];
        if has_set_aside {
            let set_aside = Some(step.dead_letters).filter(|number| *number > 0);
            cells.insert(SET_ASIDE, set_aside.map(count).unwrap_or_default());
        }
        if has_left {
            cells.insert(LEFT, left(step.share, step.left_seconds).unwrap_or_default());
        }
        cells
    };
    let mut head = vec!["step", "state", "attempt", "records", "rate", "checkpoint", ""];
    if has_set_aside {
        head.insert(SET_ASIDE, "set aside");
    }
    if has_left {
        head.insert(LEFT, "left");
    }
    let set_aside = has_set_aside.then_some(SET_ASIDE + usize::from(has_left));
    let numbers: Vec<usize> = [2, 3, 4].into_iter().chain(set_aside).collect();
    let mut text = table(&head, &numbers, steps.iter().map(row).collect());
    let over = steps.iter().filter(|step| ["done", "skipped"].contains(&step.state)).count();
    let _ = writeln!(text, "{over} of {} done", many(steps.len() as u64, "step"));
    text
}

/// How much is still to be read: `60%, 12 s`.
pub(super) fn left(share: Option<f64>, seconds: Option<f64>) -> Option<String> {
    Some(format!("{:.0}%, {}", (1.0 - share?) * 100.0, span(seconds?)))
}

fn rate(rate: f64) -> String {
    format!("{}/s", count(rate.round() as u64))
}

/// The steps of a job; none for a pipeline.
pub(crate) fn steps(
    store: &dyn piton_core::Store,
    name: &str,
    now: Timestamp,
) -> Result<Vec<StepView>, SteerError> {
    view::steps(store, name, now)
}

/// `piton mark-done JOB STEP`
pub(crate) fn mark_done(args: &MarkDone) -> Result<u8, Failure> {
    let (store, name) = opening::named(&args.named)?;
    let (step, who) = (&args.step, opening::who());
    let why = args.why.as_deref();
    let run = steer::mark_done(&store, &name, step, &who, why).map_err(of_steering)?;
    if args.named.json {
        print_json(&serde_json::json!({ "job": run, "step": step, "done": "mark_done" }))?;
    } else {
        note!("step '{step}' of '{run}' counts as done");
    }
    Ok(FINISHED)
}

/// Of how many outputs it is said what becomes of them: a `for_each` may have thousands.
const TOLD: usize = 50;

/// `piton reset JOB`, and with a step `piton rewind JOB --to STEP`
pub(crate) fn begin_anew(
    args: &Reset,
    step: Option<&str>,
    store: &Arc<dyn piton_core::Store>,
    name: &str,
) -> Result<u8, Failure> {
    if let Some(sink) = &args.sink {
        return Err(Failure::usage(format!(
            "--sink {sink}: '{name}' is a job, whose steps begin anew with all of their sinks: leave \
             it out. Nothing was changed"
        )));
    }
    let (json, who) = (args.named.json, opening::who());
    let anew = Anew { step, output: output(&args.output), who: &who };
    let consequences = steer::consequences(store, name, anew).map_err(of_steering)?;
    if !json {
        for line in consequences.iter().take(TOLD) {
            note!("{line}");
        }
        if let Some(more @ 1..) = consequences.len().checked_sub(TOLD) {
            note!("… and {more} more like these");
        }
    }
    if !args.yes {
        confirm(&match step {
            None => format!("have '{name}' begin anew, with all of its steps?"),
            Some(step) => {
                format!("have '{name}' begin anew at step '{step}', and all that comes after it?")
            }
        })?;
    }
    let (run, steps) = steer::begin_anew(store, name, anew).map_err(of_steering)?;
    match (json, step) {
        (true, _) => print_json(&serde_json::json!({
            "job": run, "done": if step.is_some() { "rewind" } else { "reset" }, "steps": steps,
            "consequences": consequences,
        }))?,
        (false, None) => note!("'{run}' begins anew, with all of its steps"),
        (false, Some(_)) => note!("'{run}': these steps begin anew: {}", steps.join(", ")),
    }
    Ok(FINISHED)
}

fn of_steering(error: JobSteerError) -> Failure {
    match error {
        JobSteerError::Job(error) => of_job(error),
        JobSteerError::Pipeline(error) => error.into(),
        error => Failure::new(USAGE, error.to_string()),
    }
}
