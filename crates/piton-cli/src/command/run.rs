//! `piton run FILE`

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use piton_engine::{
    Outcome, Pipeline, RunError, RunOptions, Summary,
    config::Loaded,
    connect, dry_run, rehearsal,
    run::{self, Figures, Signal},
};
use piton_stores::{MemoryStore, Mode};

use crate::{
    args::Run,
    exit::{FAILED, FINISHED, Failure, USAGE},
    opening, outlet,
    output::{count, note, print_json_line, records, span},
};

/// How often the live line is drawn.
const DRAW: Duration = Duration::from_millis(100);
/// How often a plain line or a JSON line is printed.
const TELL: Duration = Duration::from_secs(5);

/// A signal this soon after the first is the same request: `timeout`, for one, sends it to the
/// process and then to its group.
const ECHO: Duration = Duration::from_millis(200);

/// Runs or resumes a pipeline.
pub(crate) fn run(args: &Run) -> Result<u8, Failure> {
    let config = match opening::loaded(&args.file)? {
        Loaded::Job(job) => return super::job::run(args, &job),
        Loaded::Pipeline(config) => config,
    };
    opening::no_params(&args.param)?;
    let pipeline = connect::pipeline(&config, args.accept_changes)?;
    if args.dry_run {
        let mut out = io::stdout().lock();
        dry_run::dry_run(&pipeline, args.limit, &mut out)?;
        out.flush()?;
        return Ok(FINISHED);
    }
    let rehearsed = rehearsal::rehearse(&pipeline);
    let teller = Teller::new(args, &pipeline);
    let options = options(args, &teller);
    let store = match opening::store_of(&config, Mode::Existing) {
        Err(failure) if failure.code() == USAGE => {
            rehearsed?;
            opening::homeless(&config)?;
            rehearsal::first_run(&pipeline, &MemoryStore::new(), &options).inspect_err(
                |error| {
                    // A mistake in the file has nothing to do with the store that it names.
                    if error.exit_code() != USAGE {
                        teller.started(&opening::location(&config));
                    }
                },
            )?;
            opening::store_of(&config, Mode::Create)?
        }
        opened => {
            let store = opened?;
            rehearsed.map_err(|error| rehearsal::graver(&pipeline, &*store, &options, error))?;
            store
        }
    };
    teller.started(&store.location());
    let signal = Arc::new(Signal::default());
    listen(&signal)?;
    let figures = Figures::new(pipeline.sinks.iter().map(|sink| sink.name.as_str()));
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let drawing = scope.spawn(|| teller.follow(&figures, &done));
        let result = run::run(&pipeline, &store, &options, &signal, &figures);
        done.store(true, Ordering::Relaxed);
        let _ = drawing.join();
        result
    });
    match result {
        Ok(summary) => Ok(teller.ended(&summary, signal.is_paused())),
        Err(error) => {
            teller.failed(&error, &figures);
            Err(error.into())
        }
    }
}

fn options(args: &Run, teller: &Teller) -> RunOptions {
    let (quiet, waiting) = (teller.json, teller.json);
    let patience =
        if teller.waits { "waiting for it to let go" } else { "looking whether it is alive" };
    RunOptions {
        owner: opening::owner(),
        accept_changes: args.accept_changes,
        adopt: args.adopt,
        verify: args.verify,
        accept_age: args.accept_age,
        again: args.again,
        on_wait: Box::new(move |holder| {
            tell(waiting, "waiting", &format!("held by {holder}: {patience}"));
        }),
        on_notice: Box::new(move |what| tell(quiet, "notice", what)),
    }
}

/// Tells a person, or a machine, something beside the progress.
pub(crate) fn tell(json: bool, event: &str, what: &str) {
    if json {
        let _ = print_json_line(&serde_json::json!({ "event": event, "message": what }));
    } else {
        note!("{what}");
    }
}

/// The first signal drains; the second ends the process at once: whatever was saved stays.
pub(crate) fn listen(signal: &Arc<Signal>) -> Result<(), Failure> {
    // A reader that is stuck does not keep the program from ending.
    piton_engine::job::pass_on_by(|bytes| drop(outlet::write_all(io::stderr(), bytes)));
    let signal = Arc::clone(signal);
    let mut first: Option<Instant> = None;
    let heard = move || match first {
        None => {
            first = Some(Instant::now());
            outlet::stop_soon();
            signal.stop();
        }
        Some(first) if first.elapsed() < ECHO => {}
        Some(_) => process::exit(i32::from(FAILED)),
    };
    ctrlc::set_handler(heard).map_err(|error| Failure::failed(format!("signals: {error}")))
}

/// Tells a person, or a machine, how the run goes.
struct Teller {
    json: bool,
    pipeline: String,
    command: String,
    bounded: bool,
    /// Whether it waits for a claim that is held.
    waits: bool,
}

impl Teller {
    fn new(args: &Run, pipeline: &Pipeline) -> Self {
        Self {
            json: args.json,
            pipeline: pipeline.name.clone(),
            command: format!("piton run {}", args.file.display()),
            bounded: pipeline.source.is_bounded(),
            waits: pipeline.wait_when_held,
        }
    }

    fn started(&self, store: &str) {
        if self.json {
            let line = serde_json::json!({
                "event": "started", "pipeline": self.pipeline, "store": store,
            });
            let _ = print_json_line(&line);
        } else {
            note!("store: {store}");
        }
    }

    /// Draws or prints until the run is done.
    fn follow(&self, figures: &Figures, done: &AtomicBool) {
        let bar = (!self.json && io::stderr().is_terminal()).then(live_line);
        let mut told = Instant::now();
        let mut seen = (0, String::new());
        while !done.load(Ordering::Relaxed) {
            thread::sleep(DRAW.min(Duration::from_millis(20)));
            let due = told.elapsed() >= if bar.is_some() { DRAW } else { TELL };
            if !due {
                continue;
            }
            told = Instant::now();
            match &bar {
                Some(bar) => bar.set_message(self.line(figures)),
                None if self.json => {
                    let report = figures.report();
                    let line = serde_json::json!({ "event": "progress", "report": report });
                    let _ = print_json_line(&line);
                }
                None => {
                    let report = figures.report();
                    let taken = report.sinks.iter().map(|sink| sink.records + sink.at_risk);
                    let news = (taken.sum::<u64>(), behind(&report));
                    if news != seen {
                        seen = news;
                        note!("{}", self.line(figures));
                    }
                }
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }

    /// Records, rate, time left, lag, last checkpoint.
    fn line(&self, figures: &Figures) -> String {
        let report = figures.report();
        let total = report.sinks.iter().map(|sink| sink.records + sink.at_risk).max().unwrap_or(0);
        let rate = count(report.rate.round() as u64);
        let mut line = format!("{}: {}, {rate}/s", self.pipeline, records(total));
        if let Some((share, left)) = figures.left() {
            let _ = write!(line, ", {:.0}%, {} left", share * 100.0, span(left));
        }
        let age = report.sinks.iter().filter_map(|sink| sink.checkpoint_age_seconds);
        if let Some(age) = age.reduce(f64::max) {
            let _ = write!(line, ", checkpoint {} ago", span(age));
        }
        line + &behind(&report)
    }

    /// Tells the result and gives the exit code.
    fn ended(&self, summary: &Summary, paused: bool) -> u8 {
        let resumable = summary.outcome != Outcome::Finished && self.bounded;
        let code = if resumable { FAILED } else { FINISHED };
        let report = &summary.report;
        let word = match summary.outcome {
            Outcome::Finished if had_finished(summary) => "already_finished",
            Outcome::Finished => "finished",
            Outcome::Stopped => "stopped",
            Outcome::Cancelled => "cancelled",
        };
        if self.json {
            self.result(word, code, None, report);
            return code;
        }
        let total = report.sinks.iter().map(|sink| sink.records).max().unwrap_or(0);
        let rate = count(report.rate.round() as u64);
        let figures = format!("{} in {}, {rate}/s", records(report.records), span(report.seconds));
        match summary.outcome {
            Outcome::Finished if had_finished(summary) => {
                note!("'{}' had finished already: {}, nothing new", self.pipeline, records(total));
            }
            Outcome::Finished if report.records == 0 && caught_up(report) => {
                note!(
                    "finished: no new records; {} caught up in {}, {} in all",
                    those_that_saved(report),
                    span(report.seconds),
                    count(total)
                );
            }
            Outcome::Finished => note!("finished: {figures}, {} in all", count(total)),
            Outcome::Cancelled | Outcome::Stopped => note!("{word}: {figures}; {}", saved(report)),
        }
        if resumable {
            let again = if summary.outcome == Outcome::Cancelled { " --again" } else { "" };
            note!("to resume, run: {}{again}", self.command);
        }
        if paused && code == FAILED {
            note!("it is paused: a new run waits for `piton resume {}`", self.pipeline);
        }
        self.remarks(summary);
        code
    }

    fn remarks(&self, summary: &Summary) {
        if summary.report.set_aside > 0 {
            note!(
                "set aside: {}; see `piton dead-letters list {}`",
                records(summary.report.set_aside),
                self.pipeline
            );
        }
        for sink in &summary.report.sinks {
            if sink.state == piton_engine::run::SinkState::Behind {
                let why = sink.trouble.as_deref().unwrap_or("it had not caught up");
                note!(
                    "sink '{}' is behind ({why}): the next run goes on with it from its checkpoint",
                    sink.name
                );
            }
        }
    }

    fn failed(&self, error: &RunError, figures: &Figures) {
        if self.json {
            let what = error.to_string();
            self.result("failed", error.exit_code(), Some(&what), &figures.report());
        }
    }

    fn result(&self, word: &str, code: u8, error: Option<&str>, report: &run::Report) {
        let line = serde_json::json!({
            "event": "ended",
            "pipeline": self.pipeline,
            "outcome": word,
            "exit_code": code,
            "error": error,
            "report": report,
        });
        let _ = print_json_line(&line);
    }
}

/// Whether an earlier run had done everything: nothing was read, and no sink had to catch up.
fn had_finished(summary: &Summary) -> bool {
    summary.was_finished && !caught_up(&summary.report)
}

/// Whether a sink has saved something.
fn caught_up(report: &run::Report) -> bool {
    report.sinks.iter().any(|sink| sink.checkpoints > 0)
}

/// The names of the sinks that have saved something.
fn those_that_saved(report: &run::Report) -> String {
    let saved = report.sinks.iter().filter(|sink| sink.checkpoints > 0);
    saved.map(|sink| format!("'{}'", sink.name)).collect::<Vec<_>>().join(", ")
}

/// How far the sinks have saved; each by itself where they differ.
fn saved(report: &run::Report) -> String {
    let mut sinks = report.sinks.iter();
    match sinks.next() {
        Some(first) if sinks.any(|sink| sink.records != first.records) => {
            let each = report.sinks.iter().map(|s| format!("{} in '{}'", count(s.records), s.name));
            format!("saved at {}", each.collect::<Vec<_>>().join(", "))
        }
        first => format!("saved at {}", count(first.map_or(0, |sink| sink.records))),
    }
}

/// What the source waits for, the sinks that are behind, and why, as the end of a line.
fn behind(report: &run::Report) -> String {
    let waiting = report.waiting.as_ref();
    let mut text = waiting.map(|what| format!("; {what}")).unwrap_or_default();
    for sink in report.sinks.iter().filter(|sink| sink.state == run::SinkState::Behind) {
        let why = sink.trouble.as_deref().unwrap_or("catching up");
        let _ = write!(text, "; '{}' is behind: {why}", sink.name);
    }
    text
}

fn live_line() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}
