//! A lane: one reader, its transforms, and the sinks that take what it gives.
//!
//! Sinks that stand at the same place share a lane, so that the source is read once for all of
//! them. A lane with several sinks does not wait long for one of them: a sink for which the others
//! starve, standing still or less than half as fast, is let go and goes on with a lane of its own,
//! from its own checkpoint. That is how a slow or failing sink catches up without holding back the
//! others, and why memory stays bounded.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use jiff::Timestamp;
use piton_connectors::{
    batch::Batch,
    source::{BadRecord, Read, Reader, Start},
};
use piton_core::{
    DeadLetter, StoredPosition,
    dead_letter::{READING, TRANSFORMING},
};

use super::{RunError, context::Context};
use crate::transform::{Applied, BadRow, TransformError, Transforms};

/// Records in one batch, at most.
const BATCH_RECORDS: usize = 1000;
/// Records that could not be read, set aside together, at most.
const ASIDE_RECORDS: usize = 500;
/// How often it is noted how far reading is.
const TELL: Duration = Duration::from_millis(500);
/// How long the others may starve for one sink, at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// The share of time that they may starve for it in the long run: for a sink half as fast.
const TOLERATED: f64 = 0.5;

/// What a lane hands to a sink.
pub(crate) enum Parcel {
    /// Records.
    Batch(Arc<Batch>),
    /// There is nothing more now.
    Idle,
}

/// Why a lane stopped handing out.
pub(crate) enum End {
    /// The source has been read to its end.
    Finished,
    /// It was asked to stop.
    Stopped,
    /// This sink stood still: it goes on with a lane of its own.
    LetGo,
    /// Reading failed; what came before is to be kept.
    Failed(RunError),
}

/// A sink's side of a lane.
pub(crate) struct Inlet {
    parcels: Receiver<Parcel>,
    end: Arc<OnceLock<End>>,
}

/// A lane's side of a sink.
pub(crate) struct Outlet {
    parcels: Sender<Parcel>,
    end: Arc<OnceLock<End>>,
    /// How long the others may still starve for this sink, and since when it has been so.
    patience: (Duration, Instant),
}

/// Joins a lane and a sink, between which so many batches may wait.
pub(crate) fn join(waiting: usize) -> (Outlet, Inlet) {
    let (send, receive) = bounded(waiting);
    let end = Arc::new(OnceLock::new());
    let patience = (PATIENCE, Instant::now());
    (Outlet { parcels: send, end: Arc::clone(&end), patience }, Inlet { parcels: receive, end })
}

/// What waiting at an inlet gave.
pub(crate) enum Next {
    /// A parcel.
    Parcel(Parcel),
    /// Nothing until the deadline.
    Deadline,
    /// The lane has ended; see [`Inlet::end`].
    End,
}

impl Inlet {
    /// Waits for the next parcel, until a deadline if there is one.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Next {
        let received = match deadline {
            Some(deadline) => self.parcels.recv_deadline(deadline),
            None => self.parcels.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(parcel) => Next::Parcel(parcel),
            Err(RecvTimeoutError::Timeout) => Next::Deadline,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }

    /// Why the lane ended, once it has.
    pub(crate) fn end(&self) -> &End {
        self.end.get().unwrap_or(&End::LetGo)
    }
}

/// A reader with its transforms and outlets.
pub(crate) struct Lane<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) starts: Vec<Start>,
    pub(crate) outlets: Vec<Outlet>,
    /// Whether it tells how far it is: where sinks begin at several places, only the furthest.
    pub(crate) counts: Option<Counting>,
}

/// How far a reader is, for progress and the time that is left.
pub(crate) struct Counting {
    places: BTreeMap<String, StoredPosition>,
    told: Instant,
}

impl Counting {
    pub(crate) fn from(starts: &[Start]) -> Self {
        let place = |start: &Start| Some((start.partition.clone(), start.position.clone()?));
        Self { places: starts.iter().filter_map(place).collect(), told: Instant::now() }
    }

    fn note(&mut self, cx: &Context<'_>, batch: &Batch) {
        match self.places.get_mut(&*batch.partition) {
            Some(place) => place.clone_from(&batch.end),
            None => drop(self.places.insert(batch.partition.to_string(), batch.end.clone())),
        }
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            self.tell(cx);
        }
    }

    fn tell(&self, cx: &Context<'_>) {
        let start = |(partition, position): (&String, &StoredPosition)| Start {
            partition: partition.clone(),
            position: Some(position.clone()),
        };
        let places: Vec<Start> = self.places.iter().map(start).collect();
        let source = &cx.pipeline.source;
        // Without an end, there is nothing that it could be a share of.
        if let Some((now, all)) = source.progress(&places).filter(|_| source.is_bounded()) {
            cx.figures.note_extent(now, all);
        }
    }
}

impl Lane<'_> {
    /// Reads until the end, a stop, or an error; then tells every sink which it was.
    pub(crate) fn run(mut self) {
        let mut failure = None;
        let finished = match self.pump() {
            Ok(finished) => finished,
            Err(error) => {
                failure = Some(error);
                false
            }
        };
        for outlet in self.outlets.drain(..) {
            let end = match (&failure, finished) {
                (Some(error), _) => End::Failed(copy_of(error)),
                (None, true) => End::Finished,
                (None, false) => End::Stopped,
            };
            let _ = outlet.end.set(end);
        }
    }

    /// True when the source's end was reached.
    fn pump(&mut self) -> Result<bool, RunError> {
        let cx = self.context;
        let source_error = |e| RunError::of_source(&cx.pipeline.name, &e);
        let mut reader = cx.pipeline.source.reader(&self.starts).map_err(source_error)?;
        let mut transforms = (cx.pipeline.transforms)();
        let mut stride = Stride::new(cx);
        if let Some(counts) = &self.counts {
            counts.tell(cx);
        }
        let mut unread = Unread::default();
        while !cx.signal.is_stopping() && !self.outlets.is_empty() {
            if cx.signal.is_paused() {
                self.pass(&mut unread)?;
                self.send(&|| Parcel::Idle);
                cx.signal.wait_while_paused();
                continue;
            }
            let read = self.read(&mut *reader, &stride);
            if !matches!(&read, Ok(Read::Bad(bad)) if unread.has_room_for(bad)) {
                self.pass(&mut unread)?;
            }
            match read? {
                Read::Batch(batch) => {
                    stride.advance(batch.records);
                    cx.pace.pay(batch.records, cx.signal);
                    self.transform(&mut transforms, batch)?;
                }
                Read::Bad(bad) => self.note_unread(&mut unread, bad)?,
                Read::Idle => self.send(&|| Parcel::Idle),
                Read::Finished => return Ok(true),
            }
        }
        self.pass(&mut unread)?;
        Ok(false)
    }

    fn read(&self, reader: &mut dyn Reader, stride: &Stride) -> Result<Read, RunError> {
        let cx = self.context;
        let limit = cx.pace.limit(stride.limit());
        reader.read(limit).map_err(|e| RunError::of_source(&cx.pipeline.name, &e))
    }

    fn transform(&mut self, transforms: &mut Transforms, batch: Batch) -> Result<(), RunError> {
        let mut delivered = 0;
        for applied in transforms.apply(batch) {
            let settings = |e: TransformError| self.context.pipeline.of_transform(&e);
            let Applied { mut batch, bad } = applied.map_err(settings)?;
            batch.skipped = delivered;
            if let Some(first) = bad.first()
                && !self.context.pipeline.on_error.sets_aside()
            {
                let (place, reason) = (first.place.clone(), first.reason.clone());
                self.deliver(before(batch, first));
                return Err(RunError::BadRecord { place, reason });
            }
            let letter = |bad: BadRow| {
                let text = (bad.place, bad.reason, bad.record.to_string());
                self.letter(TRANSFORMING, &batch.partition, bad.id, text)
            };
            let letters: Vec<DeadLetter> = bad.into_iter().map(letter).collect();
            self.context.set_aside(&letters)?;
            delivered += batch.records;
            self.deliver(batch);
        }
        Ok(())
    }

    fn deliver(&mut self, batch: Batch) {
        if let Some(counts) = &mut self.counts {
            counts.note(self.context, &batch);
        }
        let batch = Arc::new(batch);
        self.send(&|| Parcel::Batch(Arc::clone(&batch)));
    }

    /// A record that cannot be read: to be set aside, or the end of the run.
    fn note_unread(&self, unread: &mut Unread, bad: BadRecord) -> Result<(), RunError> {
        let BadRecord { partition, id, place, reason, record, end } = bad;
        if !self.context.pipeline.on_error.sets_aside() {
            return Err(RunError::BadRecord { place, reason });
        }
        unread.letters.push(self.letter(READING, &partition, id, (place, reason, record)));
        unread.end = Some(end);
        Ok(())
    }

    /// Sets aside what could not be read, and only then carries the sinks past it.
    fn pass(&mut self, unread: &mut Unread) -> Result<(), RunError> {
        let Unread { letters, end } = std::mem::take(unread);
        let (Some(first), Some(end)) = (letters.first(), end) else { return Ok(()) };
        self.context.set_aside(&letters)?;
        let mut batch = Batch::empty(first.partition.as_str().into(), end);
        batch.records = letters.len() as u64;
        self.deliver(batch);
        Ok(())
    }

    fn letter(
        &self,
        stage: &str,
        partition: &str,
        id: String,
        (place, reason, record): (String, String, String),
    ) -> DeadLetter {
        DeadLetter {
            pipeline: self.context.pipeline.name.clone(),
            sink: stage.to_owned(),
            id,
            partition: partition.to_owned(),
            place,
            reason,
            record,
            at: Timestamp::now(),
        }
    }

    /// Hands a parcel to every sink; lets go of those that have gone or stand still.
    fn send(&mut self, parcel: &dyn Fn() -> Parcel) {
        let cx = self.context;
        let mut index = 0;
        while index < self.outlets.len() {
            let others = || {
                let mut others = self.outlets.iter().enumerate().filter(|(i, _)| *i != index);
                others.any(|(_, other)| other.parcels.is_empty())
            };
            let outlet = &self.outlets[index];
            let alone = self.outlets.len() == 1;
            let patience = if alone { Duration::MAX } else { outlet.patience() };
            let began = Instant::now();
            let sent = outlet.send(parcel(), patience, &|| cx.signal.is_stopping());
            let starved = if !alone && others() { began.elapsed() } else { Duration::ZERO };
            if sent {
                let left = patience.min(PATIENCE).saturating_sub(starved);
                self.outlets[index].patience = (left, Instant::now());
                index += 1;
            } else {
                self.outlets.remove(index);
            }
        }
    }
}

impl Outlet {
    /// How long the others may starve for this sink now.
    fn patience(&self) -> Duration {
        let (left, since) = self.patience;
        (left + since.elapsed().mul_f64(TOLERATED)).min(PATIENCE)
    }

    /// False when the sink has gone or was let go.
    fn send(&self, parcel: Parcel, patience: Duration, stopping: &dyn Fn() -> bool) -> bool {
        let began = Instant::now();
        let mut parcel = parcel;
        loop {
            match self.parcels.send_timeout(parcel, Duration::from_millis(50)) {
                Ok(()) => return true,
                Err(SendTimeoutError::Disconnected(_)) => return false,
                Err(SendTimeoutError::Timeout(back)) => parcel = back,
            }
            if stopping() {
                // What was not handed over is read again by the next run; nothing may follow it.
                let _ = self.end.set(End::Stopped);
                return false;
            }
            if began.elapsed() >= patience {
                let _ = self.end.set(End::LetGo);
                return false;
            }
        }
    }
}

/// Records of one partition that could not be read, one after the other, not set aside yet.
#[derive(Default)]
struct Unread {
    letters: Vec<DeadLetter>,
    /// Where reading goes on after them.
    end: Option<StoredPosition>,
}

impl Unread {
    fn has_room_for(&self, bad: &BadRecord) -> bool {
        let same = |last: &DeadLetter| last.partition == bad.partition;
        self.letters.len() < ASIDE_RECORDS && self.letters.last().is_none_or(same)
    }
}

/// Cuts batches so that a fixed number of records ends exactly at the end of a batch.
struct Stride {
    every: Option<u64>,
    since: u64,
}

impl Stride {
    fn new(cx: &Context<'_>) -> Self {
        let every = match cx.pipeline.interval {
            piton_core::interval::Policy::Fixed { records, .. } => records,
            _ => None,
        };
        Self { every, since: 0 }
    }

    fn limit(&self) -> usize {
        let left = self.every.map_or(u64::MAX, |every| every.saturating_sub(self.since));
        BATCH_RECORDS.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
    }

    fn advance(&mut self, records: u64) {
        self.since += records;
        if self.every.is_some_and(|every| self.since >= every) {
            self.since = 0;
        }
    }
}

/// The part of a batch before a record that could not be transformed.
fn before(mut batch: Batch, bad: &BadRow) -> Batch {
    // Where one record gave several rows, those before the bad one belong to it, too.
    let same = |row: &usize| batch.origin(*row).mark == bad.origin.mark;
    let row = (0..bad.before.min(batch.rows())).find(same).unwrap_or(bad.before);
    let end = batch.marks.resume_at(bad.origin);
    batch.cut(row, end);
    batch.records = bad.records_before.saturating_sub(batch.skipped);
    batch
}

/// An error for each of several sinks. The kinds that reading gives are all text.
pub(crate) fn copy_of(error: &RunError) -> RunError {
    match error {
        RunError::Settings(text) => RunError::Settings(text.clone()),
        RunError::Refused(text) => RunError::Refused(text.clone()),
        RunError::BadRecord { place, reason } => {
            RunError::BadRecord { place: place.clone(), reason: reason.clone() }
        }
        other => RunError::Failed(other.to_string()),
    }
}
