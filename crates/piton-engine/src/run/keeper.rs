//! The keeper: one thread beside the work that renews the claim, hears the operator, and tells the
//! store how far the run is.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Control, Run, Saved, StoreError, fault};

use super::{RunError, context::Context, figures::Report};

const TICK: Duration = Duration::from_millis(100);
const LISTEN: Duration = Duration::from_millis(250);
const REPORT: Duration = Duration::from_secs(1);
const THIN: Duration = Duration::from_mins(10);
/// A renewal is also what tells a second run that the owner is at work, so that it need not wait
/// for a whole lease.
const RENEW: Duration = Duration::from_secs(2);

/// Keeps the claim while the run works.
pub(crate) struct Keeper {
    done: (Sender<()>, Receiver<()>),
    failure: Mutex<Option<RunError>>,
}

impl Keeper {
    pub(crate) fn new() -> Self {
        Self { done: bounded(1), failure: Mutex::new(None) }
    }

    /// Ends the keeper's thread.
    pub(crate) fn finish(&self) {
        // Full only if it was said before.
        let _ = self.done.0.try_send(());
    }

    /// Why the run could not be kept, if so.
    pub(crate) fn failure(&self) -> Option<RunError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Runs until [`finish`](Self::finish). `run` is the row that is kept up to date.
    pub(crate) fn keep(&self, cx: &Context<'_>, mut run: Run) {
        let (mut renewed, mut listened) = (Instant::now(), Instant::now());
        let (mut reported, mut thinned) = (Instant::now(), Instant::now());
        self.note(cx, thin(cx));
        while self.done.1.recv_timeout(TICK).is_err() {
            if renewed.elapsed() >= RENEW.min(cx.claim.lease / 3) {
                renewed = Instant::now();
                self.note(cx, renew(cx));
            }
            if listened.elapsed() >= LISTEN {
                listened = Instant::now();
                self.note(cx, listen(cx));
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                self.note(cx, report(cx, &mut run));
            }
            if thinned.elapsed() >= THIN {
                thinned = Instant::now();
                self.note(cx, thin(cx));
            }
        }
    }

    /// A store that is only busy is asked again; anything else ends the run, saved so far.
    fn note(&self, cx: &Context<'_>, result: Result<(), RunError>) {
        let Err(error) = result else { return };
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        cx.signal.end();
    }
}

fn renew(cx: &Context<'_>) -> Result<(), RunError> {
    fault::point("renew");
    let asked = Instant::now();
    match patient(block_on(cx.store.renew(&cx.claim)))? {
        // Otherwise it would depend on chance whether the known-bad program does harm.
        Some(Saved::Fenced { epoch }) if !fault::known_bad("ignore_epoch") => {
            Err(cx.fenced(&format!("epoch {epoch}")))
        }
        Some(_) => {
            cx.signal.renewed(asked, cx.claim.lease);
            Ok(())
        }
        None => Ok(()),
    }
}

fn listen(cx: &Context<'_>) -> Result<(), RunError> {
    match patient(block_on(cx.store.control(&cx.pipeline.name)))? {
        Some(Control::Cancel) => cx.signal.cancel(),
        Some(control) => cx.signal.set_paused(control == Control::Pause),
        None => {}
    }
    Ok(())
}

/// Forgets history that is too old, never what a resume or a rewind needs.
fn thin(cx: &Context<'_>) -> Result<(), RunError> {
    let (name, keep) = (&cx.pipeline.name, cx.pipeline.keep_history);
    patient(block_on(cx.store.thin(name, keep, Timestamp::now()))).map(|_| ())
}

fn report(cx: &Context<'_>, run: &mut Run) -> Result<(), RunError> {
    cx.flush_mirror()?;
    note_source(cx);
    let before = run.progress.take();
    note_figures(cx, run);
    if unchanged(before.as_deref(), run.progress.as_deref()) {
        return Ok(());
    }
    patient(block_on(cx.store.update_run(run.clone())))?;
    Ok(())
}

/// Tells what keeps the source from going on, once each time that it changes.
fn note_source(cx: &Context<'_>) {
    let trouble = cx.pipeline.source.trouble();
    if cx.figures.note_waiting(trouble.clone()) {
        (cx.options.on_notice)(trouble.as_deref().unwrap_or("the source goes on"));
    }
}

/// Writes the present figures into a run's row.
pub(crate) fn note_figures(cx: &Context<'_>, run: &mut Run) {
    let report = cx.figures.report();
    run.records = report.records;
    run.progress = serde_json::to_string(&report).ok();
}

/// Whether only time has passed between two reports: an idle run writes nothing.
fn unchanged(before: Option<&str>, now: Option<&str>) -> bool {
    let timeless = |json: &str| -> Option<Report> {
        let mut report: Report = serde_json::from_str(json).ok()?;
        (report.seconds, report.rate) = (0.0, 0.0);
        for sink in &mut report.sinks {
            sink.checkpoint_age_seconds = None;
        }
        Some(report)
    };
    before.is_some() && before.and_then(timeless) == now.and_then(timeless)
}

/// A store that another process locks for a moment is no reason to stop.
fn patient<T>(result: Result<T, StoreError>) -> Result<Option<T>, RunError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Busy { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
