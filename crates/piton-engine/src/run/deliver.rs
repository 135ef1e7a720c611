//! Delivery: what is common to every sink, from parcel to checkpoint.
//!
//! A delivery takes parcels from its inlet, writes them, and saves when the interval says so. How
//! writing and saving go together differs: see `deliver_transactional` and `deliver_plain`.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use piton_connectors::{batch::Batch, sink::SinkError};
use piton_core::{
    CheckpointKey, DeadLetter, Save, fault,
    interval::{Interval, Policy},
};

use super::{
    RunError,
    context::{Context, Held},
    figures::{SinkFigures, SinkState},
    lane::{End, Inlet},
    signal::backoff,
};

/// Why a sink that was let go is behind.
pub(crate) const SLOWER: &str =
    "it is slower than the sinks beside it, and goes on at its own pace";

/// Why a sink is behind that works again.
const CATCHING_UP: &str = "it works again, and catches up with the sinks beside it";

/// How a delivery ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The sink has everything that the source had.
    Finished,
    /// It was asked to stop and has saved what it had.
    Stopped,
    /// It was let go by its lane: it goes on with one of its own.
    LetGo,
}

/// How a delivery ended badly.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The sink does not answer now. What was not saved is read again.
    Unavailable(String),
    /// Whether a commit took effect is not known: found out by fencing and reading again.
    InDoubt(String),
    /// The run cannot go on with this sink.
    Run(RunError),
    /// As [`Run`](Self::Run), and the rows of one record are written only in part: what was written
    /// since the last save must not be saved.
    Torn(RunError),
}

impl From<RunError> for Trouble {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

/// One sink's part of a run.
pub(crate) struct Delivery<'a> {
    pub(crate) cx: &'a Context<'a>,
    /// The sink's place in the configuration.
    pub(crate) sink: usize,
    pub(crate) held: Held,
    pub(crate) interval: Interval,
}

impl<'a> Delivery<'a> {
    pub(crate) fn new(
        cx: &'a Context<'a>,
        sink: usize,
        held: Held,
        interval: fn(Policy, Duration, u32) -> Interval,
    ) -> Self {
        let interval = interval(cx.pipeline.interval.clone(), cx.uptime, cx.crashes);
        Self { cx, sink, held, interval }
    }

    pub(crate) fn name(&self) -> &'a str {
        &self.cx.pipeline.sinks[self.sink].name
    }

    pub(crate) fn figures(&self) -> &'a SinkFigures {
        &self.cx.figures.sinks[self.sink]
    }

    /// Whether another sink of the pipeline writes the same database.
    pub(crate) fn shares(&self) -> bool {
        self.cx.pipeline.sinks[self.sink].shares
    }

    /// What an error of the sink means for it and for the run.
    pub(crate) fn trouble(&self, error: &SinkError) -> Trouble {
        match error {
            SinkError::Unavailable { what } => Trouble::Unavailable(what.clone()),
            SinkError::InDoubt { lost: true, .. } => Trouble::Unavailable(error.to_string()),
            SinkError::InDoubt { .. } => Trouble::InDoubt(error.to_string()),
            SinkError::Fenced { epoch, .. } => {
                Trouble::Run(self.cx.fenced(&format!("epoch {epoch}")))
            }
            _ => Trouble::Run(self.cx.pipeline.of_sink(self.name(), error)),
        }
    }

    /// Notes that a batch's rows were all taken.
    pub(crate) fn taken(&mut self, batch: &Batch) {
        self.held.take(&batch.partition, batch.end.clone(), batch.records);
        if fault::known_bad("ack_early") {
            let source = &*self.cx.pipeline.source;
            self.cx.acknowledger.saved(source, self.sink, &batch.partition, &batch.end);
        }
        self.note_taken(batch.records);
    }

    /// Notes that the records before a row were taken, and no more.
    pub(crate) fn taken_before(&mut self, batch: &Batch, row: usize) {
        let records = batch.records_before(row);
        self.held.take(&batch.partition, batch.resume_at(row), records);
        self.note_taken(records);
    }

    fn note_taken(&self, records: u64) {
        self.figures().taken.fetch_add(records, std::sync::atomic::Ordering::Relaxed);
        fault::note(|| format!("taken {} {records}", self.name()));
    }

    /// Stores a "begun" checkpoint for a partition that was not there before, so that the store
    /// knows of it before the sink does.
    pub(crate) fn begin_partition(&mut self, partition: &str) -> Result<(), RunError> {
        if self.held.knows(partition) {
            return Ok(());
        }
        let cx = self.cx;
        let save = begun(cx.pipeline, self.name(), partition, None);
        let versions = cx.save(self.name(), &[save])?;
        self.held.begun(partition, versions.first().copied().unwrap_or(1));
        Ok(())
    }

    /// The most bytes to write before a save: no bound where the interval is exact.
    pub(crate) fn most_bytes(&self, usual: usize) -> usize {
        if self.interval.is_exact() { usize::MAX } else { usual }
    }

    /// Writes the rows of a batch by `write`, setting aside what the sink refuses for good.
    ///
    /// # Errors
    /// Under `on_error: stop` a refused row ends the run; the records before it count as taken.
    pub(crate) fn write_rows(
        &mut self,
        batch: &Batch,
        mut write: impl FnMut(Range<usize>) -> Result<(), SinkError>,
    ) -> Result<(), Trouble> {
        // What a killed run had taken and not saved, no sink can show.
        fault::note(|| format!("taking {} {}", self.name(), batch.records));
        let mut from = 0;
        let mut tries = 0;
        while from < batch.rows() {
            match write(from..batch.rows()) {
                Ok(()) => break,
                Err(SinkError::BadRow { row, reason }) => {
                    tries = if row > from { 1 } else { tries + 1 };
                    from = row;
                    if tries <= self.cx.pipeline.on_error.retries() {
                        self.cx.signal.sleep(backoff(tries - 1));
                        continue;
                    }
                    if let Err(error) = self.set_aside(batch, row, &reason) {
                        if batch.first_of_record(row) < row {
                            return Err(Trouble::Torn(error));
                        }
                        self.taken_before(batch, row);
                        return Err(error.into());
                    }
                    (from, tries) = (row + 1, 0);
                }
                Err(error) => return Err(self.trouble(&error)),
            }
        }
        Ok(())
    }

    fn set_aside(&self, batch: &Batch, row: usize, reason: &str) -> Result<(), RunError> {
        let cx = self.cx;
        if !cx.pipeline.on_error.sets_aside() {
            let place = format!("{} (sink '{}')", batch.place(row), self.name());
            return Err(RunError::BadRecord { place, reason: reason.to_owned() });
        }
        let mut record = Vec::new();
        // Writing to memory does not fail.
        let _ = batch.write_json(row, &mut record);
        cx.set_aside(&[DeadLetter {
            pipeline: cx.pipeline.name.clone(),
            sink: self.name().to_owned(),
            id: batch.id(row),
            partition: batch.partition.to_string(),
            place: batch.place(row),
            reason: reason.to_owned(),
            record: String::from_utf8_lossy(&record).into_owned(),
            at: Timestamp::now(),
        }])
    }

    /// Whether to save what was taken and end, leaving what waits.
    pub(crate) fn is_hurried(&self) -> bool {
        self.cx.signal.is_hurried()
    }

    /// Whether a save is due, this long after the first record that it would cover.
    pub(crate) fn is_due(&self, since: Instant) -> bool {
        self.interval.is_due(since.elapsed(), self.held.pending_records())
    }

    /// Whether saving now, because nothing more is coming, keeps the overhead small.
    pub(crate) fn is_worth_it_idle(&self, last: Instant) -> bool {
        self.interval.is_worth_it_idle(last.elapsed())
    }

    /// When a save is due at the latest.
    pub(crate) fn deadline(&self, since: Instant) -> Option<Instant> {
        since.checked_add(self.interval.target())
    }

    /// Tells the source what the policy now lets it forget.
    pub(crate) fn acknowledge(&self, partitions: &[String]) {
        for (partition, at) in self.held.partitions() {
            if let (true, Some(position)) = (partitions.contains(partition), &at.saved) {
                let source = &*self.cx.pipeline.source;
                self.cx.acknowledger.saved(source, self.sink, partition, position);
            }
        }
    }

    /// Notes time that the work waited for a save.
    pub(crate) fn note_waited(&self, time: Duration) {
        let nanos = time.as_nanos() as u64;
        self.figures().saving_nanos.fetch_add(nanos, std::sync::atomic::Ordering::Relaxed);
    }

    /// Notes a stored checkpoint. A sink that was behind is not any more once none is further; what
    /// it was behind for is over in any case.
    pub(crate) fn note_saved(&mut self, records: u64, counted: Duration) {
        let figures = self.figures();
        figures.note_saved(records, counted, &self.interval);
        if figures.state() != SinkState::Behind {
            return;
        }
        if self.cx.figures.is_furthest(self.sink) {
            figures.note_state(SinkState::Working, None);
        } else if figures.trouble().as_deref() != Some(SLOWER) {
            figures.note_state(SinkState::Behind, Some(CATCHING_UP.to_owned()));
        }
    }

    /// Notes that its lane has nothing more now: a sink that has all of it is not behind.
    pub(crate) fn note_idle(&self) {
        let figures = self.figures();
        let has_all = self.held.has_saved_all() && !self.cx.signal.is_paused();
        if has_all && figures.state() == SinkState::Behind {
            figures.note_state(SinkState::Working, None);
        }
    }
}

/// How the lane's end ends a delivery.
pub(crate) fn ended(inlet: &Inlet) -> Result<Ended, Trouble> {
    match inlet.end() {
        End::Finished => Ok(Ended::Finished),
        End::Stopped => Ok(Ended::Stopped),
        End::LetGo => Ok(Ended::LetGo),
        End::Failed(error) => Err(Trouble::Run(super::lane::copy_of(error))),
    }
}

/// A "begun" checkpoint: nothing is durable yet, and the sink is in this state.
pub(crate) fn begun(
    pipeline: &crate::pipeline::Pipeline,
    sink: &str,
    partition: &str,
    sink_state: Option<String>,
) -> Save {
    Save {
        key: CheckpointKey::new(&pipeline.name, partition, sink),
        expected_version: 0,
        expected: None,
        position: None,
        order: pipeline.source.order(),
        records: 0,
        schema_version: 0,
        sink_state,
        state: Vec::new(),
    }
}
