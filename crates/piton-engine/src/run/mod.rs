//! One run of a pipeline, from claim to release.

mod acknowledge;
mod begin;
mod changes;
mod claiming;
mod context;
mod definition;
mod deliver;
mod deliver_plain;
mod deliver_transactional;
mod error;
mod figures;
mod keeper;
mod lane;
mod reconcile;
mod resume;
mod signal;
mod sinks;

use std::{sync::Arc, thread, time::Duration};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_connectors::sink::Sink;
use piton_core::{Claim, Control, Event, Holder, Owner, Run, RunEnd, Store, StoreError, fault};

use self::{
    acknowledge::Acknowledger,
    begin::{Found, Ready},
    changes::Looked,
    context::{Context, Mirror, Pace},
    keeper::Keeper,
};
pub(crate) use self::{begin::forget, definition::event};
pub(crate) use self::{
    changes::refuse_older,
    error::stored_instead,
    resume::{governing_state, resume},
    signal::backoff,
};
pub use self::{
    error::RunError,
    figures::{Figures, Report, SinkFigures, SinkReport, SinkState},
    signal::Signal,
};
use crate::{
    pipeline::{OnComplete, Pipeline},
    wording::records,
};

/// What a caller decides about one run.
pub struct RunOptions {
    /// Who runs it, as others are told.
    pub owner: Owner,
    /// Go on although the definition or the source has changed.
    pub accept_changes: bool,
    /// Take over output or sinks that the store knows nothing of.
    pub adopt: bool,
    /// Check all of what was consumed, not only its ends.
    pub verify: bool,
    /// Resume although the newest checkpoint is older than may be.
    pub accept_age: bool,
    /// Run although an operator cancelled it.
    pub again: bool,
    /// Told when a living owner is waited for.
    pub on_wait: Box<dyn Fn(&Holder) + Send + Sync>,
    /// Told of things that a person should know: a sink is new, a transform has changed.
    pub on_notice: Box<dyn Fn(&str) + Send + Sync>,
}

impl RunOptions {
    /// The options of somebody who accepts nothing unusual and wants to be told nothing.
    pub fn plain(owner: Owner) -> Self {
        Self {
            owner,
            accept_changes: false,
            adopt: false,
            verify: false,
            accept_age: false,
            again: false,
            on_wait: Box::new(|_| {}),
            on_notice: Box::new(|_| {}),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything the source had is durable in the sinks that the commit policy wants.
    Finished,
    /// It was asked to stop, drained and saved.
    Stopped,
    /// An operator cancelled it.
    Cancelled,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct Summary {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether there was nothing to do: it had finished before.
    pub was_finished: bool,
    /// Whether the source has an end.
    pub bounded: bool,
    /// Its figures at the end.
    pub report: Report,
}

/// Runs a pipeline until its source ends, it is told to stop, or it fails.
///
/// # Errors
/// [`RunError`], each with its exit code. Whatever was durable before stays, and the same call
/// resumes from there.
pub fn run(
    pipeline: &Pipeline,
    store: &Arc<dyn Store>,
    options: &RunOptions,
    signal: &Signal,
    figures: &Figures,
) -> Result<Summary, RunError> {
    let mut began_again = false;
    let (mut told, mut attempt) = (None, 0);
    loop {
        match run_once(pipeline, &**store, options, signal, figures) {
            // An owner that hangs has lost its claim, and still has a file: until it wakes or ends.
            Err(RunError::Locked(what)) if pipeline.wait_when_held && signal.begin_again() => {
                if told.as_ref() != Some(&what) {
                    (options.on_notice)(&format!("{what}. Waiting for that"));
                    told = Some(what);
                }
                figures.begin_again();
                signal.sleep(backoff(attempt));
                attempt += 1;
            }
            Err(RunError::InDoubt(_)) if signal.begin_again() => {
                began_again = true;
                figures.begin_again();
                (options.on_notice)(
                    "the connection to the store was lost while something was committed: claiming \
                     anew, which fences what may still come, and reading what the store holds",
                );
            }
            Ok(summary) => {
                return Ok(Summary {
                    was_finished: summary.was_finished && !began_again,
                    ..summary
                });
            }
            Err(error) => return Err(error.advising(&pipeline.name)),
        }
    }
}

fn run_once(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    signal: &Signal,
    figures: &Figures,
) -> Result<Summary, RunError> {
    let mut sinks = make_all(pipeline)?;
    let needed = begin::epoch_needed(pipeline, &mut sinks)?;
    let (claim, died) = claiming::obtain(pipeline, store, options, signal, needed)?;
    figures.begin();
    let run = Claimed { pipeline, store, options, signal, figures, claim };
    let result = run.run(sinks, died.as_ref());
    // A claim that could not be given up is given up by the lock, when this process ends.
    let _ = block_on(store.release(&run.claim));
    result
}

/// Decides everything that a run would decide before it writes, and nothing more.
pub(crate) fn foresee(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
) -> Result<Vec<String>, RunError> {
    let looked = changes::look(pipeline, store, options, &mut make_all(pipeline)?)?;
    let anew = looked.anew.map(|change| changes::begins_anew(pipeline, &change));
    Ok(looked.notices.into_iter().map(|(_, detail)| detail).chain(anew).collect())
}

/// What a run waits for before it begins.
pub(crate) enum Awaited {
    /// The end of another one, which holds what the sinks write to.
    Owner(Holder),
    /// An operator.
    Operator,
}

/// Why a run does not begin, or waits first, whatever its sinks say: another one is at work, or an
/// operator wants it so.
pub(crate) fn held_back(
    pipeline: &Pipeline,
    store: &dyn Store,
) -> Result<Result<Option<Awaited>, RunError>, StoreError> {
    let name = &pipeline.name;
    let holder = block_on(store.holders(name))?.into_iter().next();
    let control = block_on(store.control(name))?;
    Ok(match (holder, control) {
        (Some(holder), _) if pipeline.wait_when_held => Ok(Some(Awaited::Owner(holder))),
        (Some(holder), _) => Err(RunError::Held { pipeline: name.clone(), holder }),
        (None, Control::Cancel) => Err(cancelled(name)),
        (None, Control::Pause) => Ok(Some(Awaited::Operator)),
        (None, Control::Run) => Ok(None),
    })
}

fn cancelled(name: &str) -> RunError {
    RunError::Refused(format!(
        "'{name}' was cancelled by an operator (see `piton history {name}`): \
         run with --again to go on from its checkpoint"
    ))
}

/// The claim of a pipeline, for work on its sinks outside a run.
pub(crate) fn claim_for(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    signal: &Signal,
) -> Result<Claim, RunError> {
    let mut sinks = make_all(pipeline)?;
    let needed = begin::epoch_needed(pipeline, &mut sinks)?;
    claiming::obtain(pipeline, store, options, signal, needed).map(|(claim, _)| claim)
}

fn make_all(pipeline: &Pipeline) -> Result<Vec<Sink>, RunError> {
    let make = |spec: &crate::pipeline::SinkSpec| {
        (spec.make)().map_err(|error| pipeline.of_sink(&spec.name, &error))
    };
    pipeline.sinks.iter().map(make).collect()
}

struct Claimed<'a> {
    pipeline: &'a Pipeline,
    store: &'a dyn Store,
    options: &'a RunOptions,
    signal: &'a Signal,
    figures: &'a Figures,
    claim: Claim,
}

impl Claimed<'_> {
    fn run(&self, mut sinks: Vec<Sink>, died: Option<&Holder>) -> Result<Summary, RunError> {
        let (pipeline, store) = (self.pipeline, self.store);
        self.heed_control()?;
        let looked = changes::settle(pipeline, store, self.options, &mut sinks)?;
        let Looked { found, notices, .. } = looked;
        let had_begun = found.checkpoints.iter().any(|c| c.position.is_some());
        definition::register(pipeline, store, &notices, self.options)?;
        let (crashes, uptime) = self.past(died)?;
        let mut row = self.begin_row()?;
        let result = self.open_all(sinks, &found).and_then(|ready| {
            self.note_totals(&ready);
            self.work(ready, &mut row, crashes, uptime)
        });
        self.end_row(row, &result);
        let outcome = result?;
        if outcome == Outcome::Finished && pipeline.on_complete == OnComplete::Delete {
            begin::forget(
                pipeline,
                store,
                &self.claim,
                &self.event("complete", "checkpoints removed"),
            )?;
        }
        fault::point("shutdown");
        let report = self.figures.report();
        Ok(Summary {
            outcome,
            was_finished: outcome == Outcome::Finished && had_begun && report.records == 0,
            bounded: pipeline.source.is_bounded(),
            report,
        })
    }

    /// A cancelled pipeline needs `--again`; a paused one waits.
    fn heed_control(&self) -> Result<(), RunError> {
        let name = &self.pipeline.name;
        let control = block_on(self.store.control(name))?;
        if control == Control::Cancel && !self.options.again {
            return Err(cancelled(name));
        }
        if control == Control::Cancel {
            let event = self.event("again", "runs again after it was cancelled");
            block_on(self.store.set_control(name, Control::Run, event))?;
        }
        self.signal.set_paused(control == Control::Pause);
        if control == Control::Pause {
            (self.options.on_notice)(&format!(
                "'{name}' is paused: waiting for `piton resume {name}`"
            ));
        }
        Ok(())
    }

    fn event(&self, what: &str, detail: &str) -> Event {
        definition::event(&self.pipeline.name, self.options, what, detail)
    }

    /// How often earlier runs crashed, and how long they ran in all. A run whose owner died is
    /// noted as crashed.
    fn past(&self, died: Option<&Holder>) -> Result<(u32, Duration), RunError> {
        let runs = block_on(self.store.runs(&self.pipeline.name, 200))?;
        let (mut crashes, mut uptime) = (0, Duration::ZERO);
        for mut run in runs {
            if run.ended_at.is_none() {
                let known = died.filter(|holder| holder.epoch == run.epoch);
                run.ended_at = Some(Timestamp::now());
                run.end = Some(RunEnd::Crashed);
                run.error = Some(match known {
                    Some(holder) => format!("{} died", holder.owner),
                    None => "ended without a word".to_owned(),
                });
                block_on(self.store.update_run(run.clone()))?;
            }
            crashes += u32::from(run.end == Some(RunEnd::Crashed));
            let report: Option<Report> =
                run.progress.as_deref().and_then(|json| serde_json::from_str(json).ok());
            let seconds = report.map_or(0.0, |report| report.seconds);
            uptime += Duration::try_from_secs_f64(seconds).unwrap_or_default();
        }
        Ok((crashes, uptime))
    }

    fn begin_row(&self) -> Result<Run, RunError> {
        let mut row = Run {
            id: 0,
            pipeline: self.pipeline.name.clone(),
            epoch: self.claim.epoch,
            owner: self.options.owner.clone(),
            started_at: Timestamp::now(),
            ended_at: None,
            end: None,
            records: 0,
            error: None,
            progress: None,
        };
        row.id = block_on(self.store.begin_run(row.clone()))?;
        Ok(row)
    }

    fn open_all(&self, sinks: Vec<Sink>, found: &Found) -> Result<Vec<Ready>, RunError> {
        let (pipeline, store) = (self.pipeline, self.store);
        let open = |(spec, sink): (&crate::pipeline::SinkSpec, Sink)| {
            let name = spec.name.as_str();
            begin::open(pipeline, store, &self.claim, found, self.options, (name, sink))
        };
        let ready: Vec<Ready> =
            pipeline.sinks.iter().zip(sinks).map(open).collect::<Result<_, _>>()?;
        let applied: Vec<u64> = found.orders.iter().map(|order| order.id).collect();
        if !applied.is_empty() {
            block_on(store.applied(&self.claim, applied, Timestamp::now()))?;
        }
        Ok(ready)
    }

    /// Tells where each sink goes on.
    fn note_totals(&self, ready: &[Ready]) {
        let totals: Vec<u64> = ready.iter().map(|ready| ready.held.saved_records()).collect();
        self.figures.note_totals(&totals);
        let names = self.figures.sinks.iter().map(|sink| &sink.name);
        let resumed: Vec<_> = totals.into_iter().zip(names).collect();
        let first = resumed.first().map_or(0, |(total, _)| *total);
        // The pipeline of a job's step is named by the run and the step's path.
        let step = self.pipeline.name.split_once('/');
        let step = step.map(|(_, path)| format!("step '{path}': ")).unwrap_or_default();
        if resumed.iter().any(|(total, _)| *total != first) {
            let each = resumed.iter().map(|(total, name)| match total {
                0 => format!("'{name}' at the beginning"),
                _ => format!("'{name}' after {}", records(*total)),
            });
            let each = each.collect::<Vec<_>>().join(", ");
            (self.options.on_notice)(&format!("{step}resuming {each}"));
        } else if first > 0 {
            (self.options.on_notice)(&format!("{step}resuming after {}", records(first)));
        }
    }

    fn work(
        &self,
        ready: Vec<Ready>,
        row: &mut Run,
        crashes: u32,
        uptime: Duration,
    ) -> Result<Outcome, RunError> {
        let pipeline = self.pipeline;
        let order = pipeline.source.order();
        let cx = Context {
            pipeline,
            store: self.store,
            claim: self.claim.clone(),
            options: self.options,
            signal: self.signal,
            figures: self.figures,
            mirror: Mirror::default(),
            pace: Pace::new(pipeline.rate),
            acknowledger: Acknowledger::new(pipeline.commit, &pipeline.sinks, order),
            crashes,
            uptime,
        };
        acknowledge_saved(&cx, &ready);
        let keeper = Keeper::new();
        let worked = thread::scope(|scope| {
            let (keeper, cx) = (&keeper, &cx);
            let kept = row.clone();
            scope.spawn(move || keeper.keep(cx, kept));
            let worked = sinks::deliver_all(cx, ready);
            keeper.finish();
            worked
        });
        fault::point("shutdown");
        // Fenced, it has nothing more to say: the heir's copy stands.
        let flushed = match self.signal.fenced() {
            Some(_) => Ok(()),
            None => cx.flush_mirror(),
        };
        keeper::note_figures(&cx, row);
        if let Some(error) = keeper.failure() {
            return Err(error);
        }
        let finished = worked?;
        flushed?;
        Ok(match finished {
            _ if self.signal.is_cancelled() => Outcome::Cancelled,
            true => Outcome::Finished,
            false => Outcome::Stopped,
        })
    }

    fn end_row(&self, mut row: Run, result: &Result<Outcome, RunError>) {
        row.ended_at = Some(Timestamp::now());
        row.end = Some(match result {
            Ok(Outcome::Finished) => RunEnd::Finished,
            Ok(Outcome::Stopped) => RunEnd::Stopped,
            Ok(Outcome::Cancelled) => RunEnd::Cancelled,
            Err(RunError::Fenced { .. }) => RunEnd::Fenced,
            Err(_) => RunEnd::Failed,
        });
        row.error = result.as_ref().err().map(ToString::to_string);
        // The run has its result; a row that cannot be written is found open by the next owner.
        let _ = block_on(self.store.update_run(row));
    }
}

/// Tells the source what earlier runs have saved: the last of them may have died before it could,
/// and a sink that has nothing new to save would hold back all that the others save.
fn acknowledge_saved(cx: &Context<'_>, ready: &[Ready]) {
    for (sink, ready) in ready.iter().enumerate() {
        for (partition, at) in ready.held.partitions() {
            if let Some(position) = &at.saved {
                cx.acknowledger.saved(&*cx.pipeline.source, sink, partition, position);
            }
        }
    }
}
