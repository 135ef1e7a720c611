//! What a run can tell of itself while it runs. Written with relaxed atomics, once a batch.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use piton_core::interval::Interval;
use serde::{Deserialize, Serialize};

/// The figures of a run.
#[derive(Debug)]
pub struct Figures {
    /// When the claim was granted: what a standby waits is not time in which it ran.
    began: OnceLock<Instant>,
    /// Records that the furthest sink had when the run began.
    at_start: OnceLock<u64>,
    /// Records set aside in this run.
    pub set_aside: AtomicU64,
    extent: Mutex<Option<Extent>>,
    waiting: Mutex<Option<String>>,
    /// The sinks, in the order of the configuration.
    pub sinks: Vec<SinkFigures>,
}

/// How far the reader that is furthest is, in the source's unit (bytes, rows).
#[derive(Debug, Clone, Copy)]
struct Extent {
    at_start: u64,
    now: u64,
    all: u64,
}

/// The figures of one sink.
#[derive(Debug)]
pub struct SinkFigures {
    /// Its name.
    pub name: String,
    /// Records taken in this run, durable or not.
    pub taken: AtomicU64,
    /// Records covered by its checkpoints, in this run.
    pub saved: AtomicU64,
    /// Records covered by its checkpoints, over all runs.
    pub total: AtomicU64,
    /// Checkpoints stored in this run.
    pub checkpoints: AtomicU64,
    /// Time that the work spent in saves and in waiting for them.
    pub saving_nanos: AtomicU64,
    detail: Mutex<Detail>,
}

#[derive(Debug, Default)]
struct Detail {
    saved_at: Option<Instant>,
    interval: Option<(Duration, String)>,
    trouble: Option<String>,
    state: SinkState,
}

/// What a sink is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// In step with its reader.
    #[default]
    Working,
    /// Waiting to be tried again, or catching up with the sinks beside it.
    Behind,
    /// Has everything the source had.
    Finished,
    /// Ended before it had everything.
    Ended,
}

impl Figures {
    /// Figures for sinks of these names.
    pub fn new<'a>(sinks: impl IntoIterator<Item = &'a str>) -> Self {
        let sink = |name: &str| SinkFigures {
            name: name.to_owned(),
            taken: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            total: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            saving_nanos: AtomicU64::new(0),
            detail: Mutex::default(),
        };
        Self {
            began: OnceLock::new(),
            at_start: OnceLock::new(),
            set_aside: AtomicU64::new(0),
            extent: Mutex::new(None),
            waiting: Mutex::new(None),
            sinks: sinks.into_iter().map(sink).collect(),
        }
    }

    /// Notes that the claim was granted: time counts from here, also if it is claimed anew.
    pub(crate) fn begin(&self) {
        self.began.get_or_init(Instant::now);
    }

    /// Notes how many records each sink has as the run begins.
    pub(crate) fn note_totals(&self, totals: &[u64]) {
        self.at_start.get_or_init(|| totals.iter().copied().max().unwrap_or(0));
        for (sink, total) in self.sinks.iter().zip(totals) {
            sink.total.store(*total, Ordering::Relaxed);
        }
    }

    /// Notes that the run begins again: what was taken and is not covered by a checkpoint is taken
    /// again.
    pub(crate) fn begin_again(&self) {
        self.sinks.iter().for_each(SinkFigures::note_lost);
    }

    /// Whether no sink has more records than this one.
    pub(crate) fn is_furthest(&self, sink: usize) -> bool {
        let total = |sink: &SinkFigures| sink.total.load(Ordering::Relaxed);
        self.sinks.iter().all(|other| total(other) <= total(&self.sinks[sink]))
    }

    /// Records by which the furthest sink is further than the furthest one was at the start.
    fn records(&self) -> u64 {
        let furthest = self.sinks.iter().map(SinkFigures::reached).max().unwrap_or(0);
        furthest.saturating_sub(self.at_start.get().copied().unwrap_or(0))
    }

    fn elapsed(&self) -> Duration {
        self.began.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Notes how far a reader is, and how much there is in all. The furthest reader counts.
    pub(crate) fn note_extent(&self, now: u64, all: u64) {
        let mut extent = self.extent.lock().unwrap_or_else(PoisonError::into_inner);
        let at_start = extent.map_or(now, |extent| extent.at_start);
        let now = extent.map_or(now, |extent| extent.now.max(now));
        *extent = Some(Extent { at_start, now, all });
    }

    /// Notes what keeps the source from going on, and whether that is news.
    pub(crate) fn note_waiting(&self, trouble: Option<String>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *waiting != trouble;
        *waiting = trouble;
        is_news
    }

    /// The share of the source that is read, and the seconds that the rest will take at the
    /// present rate; `None` where the source does not know its size.
    pub fn left(&self) -> Option<(f64, f64)> {
        let Extent { at_start, now, all } =
            (*self.extent.lock().unwrap_or_else(PoisonError::into_inner))?;
        if now <= at_start || all == 0 {
            return None;
        }
        let seconds =
            all.saturating_sub(now) as f64 / (now - at_start) as f64 * self.elapsed().as_secs_f64();
        Some(((now as f64 / all as f64).min(1.0), seconds))
    }

    /// A picture of the figures, to be shown or stored.
    pub fn report(&self) -> Report {
        let seconds = self.elapsed().as_secs_f64();
        let records = self.records();
        // Once all is read, what is left is to make it durable.
        let (share, left_seconds) = self.left().filter(|(share, _)| *share < 1.0).unzip();
        Report {
            records,
            seconds,
            rate: if seconds > 0.0 { records as f64 / seconds } else { 0.0 },
            share,
            left_seconds,
            set_aside: self.set_aside.load(Ordering::Relaxed),
            waiting: self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            sinks: self.sinks.iter().map(SinkFigures::report).collect(),
        }
    }
}

impl SinkFigures {
    /// Notes a stored checkpoint that covers `records` more.
    pub(crate) fn note_saved(&self, records: u64, cost: Duration, interval: &Interval) {
        self.saved.fetch_add(records, Ordering::Relaxed);
        self.total.fetch_add(records, Ordering::Relaxed);
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.saving_nanos.fetch_add(cost.as_nanos() as u64, Ordering::Relaxed);
        let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        detail.saved_at = Some(Instant::now());
        detail.interval = Some((interval.target(), interval.why()));
    }

    /// Notes that the sink was read again and has so many records: what was taken and is not among
    /// them is taken again.
    pub(crate) fn note_read_again(&self, records: u64) {
        let more = records.saturating_sub(self.total.swap(records, Ordering::Relaxed));
        let saved = self.saved.fetch_add(more, Ordering::Relaxed) + more;
        self.taken.store(saved, Ordering::Relaxed);
    }

    /// Notes that what was taken and is not covered by a checkpoint is not in the sink: it is taken
    /// again.
    pub(crate) fn note_lost(&self) {
        self.taken.store(self.saved.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Records taken, over all runs.
    fn reached(&self) -> u64 {
        self.total.load(Ordering::Relaxed) + self.at_risk()
    }

    fn at_risk(&self) -> u64 {
        let saved = self.saved.load(Ordering::Relaxed);
        self.taken.load(Ordering::Relaxed).saturating_sub(saved)
    }

    /// Notes what the sink is doing, and why it is not in step.
    pub(crate) fn note_state(&self, state: SinkState, trouble: Option<String>) {
        let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        detail.state = state;
        if trouble.is_some() || state != SinkState::Behind {
            detail.trouble = trouble;
        }
    }

    /// What the sink is doing.
    pub fn state(&self) -> SinkState {
        self.detail.lock().unwrap_or_else(PoisonError::into_inner).state
    }

    /// Why it is not in step, while it is not.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.detail.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    fn report(&self) -> SinkReport {
        let detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        SinkReport {
            name: self.name.clone(),
            state: detail.state,
            trouble: detail.trouble.clone(),
            records: self.total.load(Ordering::Relaxed),
            at_risk: self.at_risk(),
            checkpoints: self.checkpoints.load(Ordering::Relaxed),
            saving_seconds: self.saving_nanos.load(Ordering::Relaxed) as f64 / 1e9,
            checkpoint_age_seconds: detail.saved_at.map(|at| at.elapsed().as_secs_f64()),
            interval_seconds: detail
                .interval
                .as_ref()
                .map(|(target, _)| target.as_secs_f64())
                .filter(|seconds| *seconds < 1e9),
            interval_why: detail.interval.as_ref().map(|(_, why)| why.clone()),
        }
    }
}

/// A picture of a run's figures; kept in the store with the run while it runs and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Records that this run has brought to the sink that is furthest; at its end, durably. What
    /// another sink catches up with is not new.
    pub records: u64,
    /// How long the run has lasted since it was granted its claim.
    pub seconds: f64,
    /// Records per second over the whole run.
    pub rate: f64,
    /// The share of the source that is read, from 0 to 1: of one that has an end and knows its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// How long the rest takes at the present rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_seconds: Option<f64>,
    /// Records set aside in this run.
    pub set_aside: u64,
    /// What keeps the source from going on, while something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// One for each sink.
    pub sinks: Vec<SinkReport>,
}

/// A picture of one sink's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SinkReport {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: SinkState,
    /// Why it is not in step, while it is not.
    pub trouble: Option<String>,
    /// Records its checkpoints cover, over all runs.
    pub records: u64,
    /// Records taken and not yet covered: what would be replayed if the process died now.
    pub at_risk: u64,
    /// Checkpoints stored in this run.
    pub checkpoints: u64,
    /// Time that the work spent in saves and in waiting for them: what checkpoints cost over a run
    /// without. What another thread saved meanwhile is not in it, nor is the commit of a
    /// transaction, nor making the output durable at the end.
    pub saving_seconds: f64,
    /// How long ago the last checkpoint was stored in this run.
    pub checkpoint_age_seconds: Option<f64>,
    /// The interval in force, as far as time decides it.
    pub interval_seconds: Option<f64>,
    /// Why it is that.
    pub interval_why: Option<String>,
}
