//! The sinks of a run: each on its own thread, with a lane that it shares or has to itself.
//!
//! Sinks that stand at the same place begin in one lane. A sink that is let go, or fails and comes
//! back, goes on with a lane of its own from its own checkpoint, while the others go on. The
//! commit policy decides when the run has what it needs.

use std::{
    thread::{self, Scope},
    time::{Duration, Instant},
};

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use piton_connectors::{sink::Sink, source::Start};
use piton_core::interval::Interval;

use super::{
    RunError,
    begin::{self, Ready},
    changes::Changed,
    context::{Context, Held},
    deliver::{Delivery, Ended, SLOWER, Trouble},
    deliver_plain, deliver_transactional,
    figures::SinkState,
    lane::{Counting, Inlet, Lane, join},
    signal::backoff,
};
use crate::pipeline::{Commit, SinkSpec};

/// How long a sink that the policy does not need is waited for once all others have finished.
const GRACE: Duration = Duration::from_secs(30);

/// Delivers to every sink. True when the policy's sinks have everything the source had.
pub(crate) fn deliver_all(cx: &Context<'_>, ready: Vec<Ready>) -> Result<bool, RunError> {
    thread::scope(|scope| {
        let (report, reports) = unbounded();
        let count = ready.len();
        for (first, group) in by_place(ready).into_iter().enumerate() {
            start_lane(scope, cx, group, first == 0, &report);
        }
        drop(report);
        let mut ends: Vec<Option<Result<Ended, RunError>>> = (0..count).map(|_| None).collect();
        let mut grace: Option<Instant> = None;
        loop {
            let wait = grace.map_or(Duration::from_hours(1), |until| {
                until.saturating_duration_since(Instant::now())
            });
            match reports.recv_timeout(wait) {
                Ok((sink, end)) => {
                    if end.is_err() {
                        cx.signal.end();
                    }
                    ends[sink] = Some(end);
                }
                Err(RecvTimeoutError::Timeout) => cx.signal.stop(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if satisfied(cx, &ends) && grace.is_none() {
                grace = Some(Instant::now() + GRACE);
            }
        }
        let done = satisfied(cx, &ends);
        match ends.into_iter().flatten().find_map(Result::err) {
            Some(error) => Err(error),
            None => Ok(done),
        }
    })
}

/// Whether the sinks that the commit policy wants have finished.
fn satisfied(cx: &Context<'_>, ends: &[Option<Result<Ended, RunError>>]) -> bool {
    let finished = |end: &Option<Result<Ended, RunError>>| matches!(end, Some(Ok(Ended::Finished)));
    match cx.pipeline.commit {
        Commit::All => ends.iter().all(finished),
        Commit::Quorum(n) => ends.iter().filter(|end| finished(end)).count() >= n,
        Commit::Required => {
            let mut required = cx.pipeline.sinks.iter().zip(ends).filter(|(spec, _)| spec.required);
            required.all(|(_, end)| finished(end))
        }
    }
}

/// Sinks of one lane, each with its place in the configuration.
type Group = Vec<(usize, Ready)>;

/// Groups sinks that stand at the same place; the furthest group first.
fn by_place(ready: Vec<Ready>) -> Vec<Group> {
    let mut groups: Vec<(Vec<Start>, Group)> = Vec::new();
    for (sink, ready) in ready.into_iter().enumerate() {
        let place: Vec<Start> =
            ready.held.starts().into_iter().filter(|start| start.position.is_some()).collect();
        match groups.iter_mut().find(|(there, _)| *there == place) {
            Some((_, group)) => group.push((sink, ready)),
            None => groups.push((place, vec![(sink, ready)])),
        }
    }
    let mut groups: Vec<_> = groups.into_iter().map(|(_, group)| group).collect();
    groups.sort_by_key(|group| {
        std::cmp::Reverse(group.iter().map(|(_, ready)| ready.held.saved_records()).max())
    });
    groups
}

type Report = Sender<(usize, Result<Ended, RunError>)>;

fn start_lane<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    cx: &'scope Context<'scope>,
    group: Group,
    counts: bool,
    report: &Report,
) {
    let starts = group.first().map(|(_, ready)| ready.held.starts()).unwrap_or_default();
    let mut outlets = Vec::new();
    for (sink, ready) in group {
        let (outlet, inlet) = join(cx.pipeline.batches_waiting());
        outlets.push(outlet);
        let report = report.clone();
        scope.spawn(move || {
            let end = attend(scope, cx, sink, ready, inlet);
            note_end(cx, sink, &end);
            let _ = report.send((sink, end));
        });
    }
    let counts = counts.then(|| Counting::from(&starts));
    let lane = Lane { context: cx, starts, outlets, counts };
    scope.spawn(move || lane.run());
}

fn note_end(cx: &Context<'_>, sink: usize, end: &Result<Ended, RunError>) {
    let figures = &cx.figures.sinks[sink];
    match end {
        Ok(Ended::Finished) => figures.note_state(SinkState::Finished, None),
        Ok(_) if figures.state() == SinkState::Behind => {}
        Ok(_) => figures.note_state(SinkState::Ended, None),
        Err(error) => figures.note_state(SinkState::Ended, Some(error.to_string())),
    }
}

/// Attends to one sink until it has everything, the run stops, or it cannot go on.
fn attend<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    cx: &'scope Context<'scope>,
    sink: usize,
    ready: Ready,
    inlet: Inlet,
) -> Result<Ended, RunError> {
    let figures = &cx.figures.sinks[sink];
    let (mut ready, mut inlet) = (ready, inlet);
    let mut attempt = 0;
    let mut doubted_at = None;
    loop {
        let before = ready.held.saved_records();
        let interval = match &ready.sink {
            Sink::Transactional(_) => Interval::of_transactions,
            Sink::Plain(_) => Interval::new,
        };
        let mut delivery = Delivery::new(cx, sink, std::mem::take(&mut ready.held), interval);
        let ended = match &mut ready.sink {
            Sink::Transactional(sink) => {
                deliver_transactional::run(&mut delivery, &mut **sink, &inlet)
            }
            Sink::Plain(sink) => deliver_plain::run(&mut delivery, &mut **sink, &inlet),
        };
        // The lane sees that nobody takes its parcels any more.
        drop(inlet);
        if delivery.held.saved_records() > before {
            attempt = 0;
        }
        ready.held = delivery.held;
        match ended {
            Ok(Ended::LetGo) => figures.note_state(SinkState::Behind, Some(SLOWER.to_owned())),
            Ok(ended) => {
                let is_whole = ended == Ended::Finished;
                return finish(cx, sink, &mut ready.sink, is_whole).map(|()| ended);
            }
            Err(trouble) => {
                figures.note_lost();
                let stood_at = ready.held.saved_records();
                let trouble = doubt_once(cx, sink, trouble, stood_at, &mut doubted_at);
                let what = tolerable(cx, sink, trouble)?;
                figures.note_state(SinkState::Behind, Some(what));
                drop(ready.sink);
                match reopen(cx, sink, &mut attempt)? {
                    Some(again) => ready = again,
                    None => return Ok(Ended::Stopped),
                }
                figures.note_read_again(ready.held.saved_records());
                if ready.held.saved_records() > stood_at {
                    attempt = 0;
                }
            }
        }
        if cx.signal.is_stopping() {
            return Ok(Ended::Stopped);
        }
        inlet = own_lane(scope, cx, &ready.held);
    }
}

/// A sink that has all that it is given may still have something to end.
fn finish(cx: &Context<'_>, index: usize, sink: &mut Sink, is_whole: bool) -> Result<(), RunError> {
    let Sink::Plain(sink) = sink else { return Ok(()) };
    let completed = if is_whole { sink.complete() } else { Ok(()) };
    let Err(error) = completed.and_then(|()| sink.finish()) else { return Ok(()) };
    let error = cx.pipeline.of_sink(&cx.pipeline.sinks[index].name, &error);
    if cx.pipeline.needs(index) {
        return Err(error);
    }
    cx.figures.sinks[index].note_state(SinkState::Behind, Some(error.to_string()));
    Ok(())
}

/// A lane for one sink alone, from where it stands.
fn own_lane<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    cx: &'scope Context<'scope>,
    held: &Held,
) -> Inlet {
    let (outlet, inlet) = join(cx.pipeline.batches_waiting());
    let starts = held.starts();
    let counts = Some(Counting::from(&starts));
    let lane = Lane { context: cx, starts, outlets: vec![outlet], counts };
    scope.spawn(move || lane.run());
    inlet
}

/// A commit whose result is not known is looked up, and made again if it took no effect. In doubt
/// twice at one place it is a failure: trying on would be hope.
fn doubt_once(
    cx: &Context<'_>,
    sink: usize,
    trouble: Trouble,
    stands_at: u64,
    doubted_at: &mut Option<u64>,
) -> Trouble {
    let Trouble::InDoubt(what) = trouble else { return trouble };
    if doubted_at.replace(stands_at) != Some(stands_at) {
        return Trouble::Unavailable(what);
    }
    Trouble::Run(RunError::Failed(format!(
        "{}, sink '{}': {what}. It did not, and the next one went the same way. Everything up to \
         its checkpoint is durable; when that is mended, run the same command again",
        cx.pipeline.name, cx.pipeline.sinks[sink].name
    )))
}

/// What went wrong, if the run can live with it: any sink may be away for a while; an optional one
/// may also fail.
fn tolerable(cx: &Context<'_>, sink: usize, trouble: Trouble) -> Result<String, RunError> {
    match trouble {
        Trouble::Unavailable(what) | Trouble::InDoubt(what) => Ok(what),
        Trouble::Torn(error)
        | Trouble::Run(
            error @ (RunError::Fenced { .. } | RunError::InDoubt(_) | RunError::BadRecord { .. }),
        ) => Err(error),
        Trouble::Run(error) if cx.pipeline.needs(sink) => Err(error),
        Trouble::Run(error) => Ok(error.to_string()),
    }
}

/// Makes the sink anew and takes it over again: fence, then read. Waits between tries; `None` when
/// it is time to stop.
fn reopen(cx: &Context<'_>, sink: usize, attempt: &mut u32) -> Result<Option<Ready>, RunError> {
    let spec = &cx.pipeline.sinks[sink];
    loop {
        if !cx.signal.sleep(backoff(*attempt)) {
            return Ok(None);
        }
        *attempt += 1;
        cx.mirror.forget(sink);
        match take_over_again(cx, spec) {
            Ok(ready) => return Ok(Some(ready)),
            Err(error @ (RunError::Fenced { .. } | RunError::InDoubt(_))) => return Err(error),
            Err(error) => {
                let figures = &cx.figures.sinks[sink];
                figures.note_state(SinkState::Behind, Some(error.to_string()));
                if cx.pipeline.needs(sink)
                    && !matches!(error, RunError::Failed(_) | RunError::Locked(_))
                {
                    return Err(error);
                }
            }
        }
    }
}

/// Everything that a start decides and does about one sink: it may have been replaced meanwhile.
fn take_over_again(cx: &Context<'_>, spec: &SinkSpec) -> Result<Ready, RunError> {
    let Context { pipeline, store, claim, options, .. } = cx;
    let found = begin::find(pipeline, *store, Vec::new())?;
    let mut sink = (spec.make)().map_err(|error| pipeline.of_sink(&spec.name, &error))?;
    let mut changed = Changed::continued(pipeline);
    begin::inspect(pipeline, &found, options, (&spec.name, &mut sink), &mut changed)?;
    begin::open(pipeline, *store, claim, &found, options, (&spec.name, sink))
}
