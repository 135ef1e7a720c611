//! Delivery to a sink whose checkpoint is in the store: write, make durable, then save.
//!
//! A save goes on beside the writing: the sink promises what it has accepted, a second thread keeps
//! the promise (syncs the file) and stores the checkpoint, and meanwhile the next records are
//! written. One save is under way at a time. So a slow disk lengthens the interval instead of
//! stopping the work, until twice the interval has passed: then the work waits.

use std::{
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use piton_connectors::{
    batch::Batch,
    sink::{Durable, PlainSink, Promise, SinkError},
};
use piton_core::{CheckpointKey, Save, fault};

use super::{
    RunError,
    context::{At, Context},
    deliver::{Delivery, Ended, Trouble, ended},
    figures::SinkState,
    lane::{Inlet, Next, Parcel},
    signal::backoff,
};

/// Data written between saves, at most, where no interval is fixed: so that the disk works all
/// along and the last sync is short.
const UNSYNCED_BYTES: usize = 16 << 20;

/// Delivers until the lane ends.
pub(crate) fn run(
    delivery: &mut Delivery<'_>,
    sink: &mut dyn PlainSink,
    inlet: &Inlet,
) -> Result<Ended, Trouble> {
    let cx = delivery.cx;
    let name = delivery.name();
    thread::scope(|scope| {
        let (requests, to_save) = bounded::<Request>(1);
        let (results, saved) = bounded::<Result<Kept, Failed>>(1);
        scope.spawn(move || save_all(cx, name, &to_save, &results));
        let saver = Saver { requests, saved, under_way: None };
        Plain { delivery, sink, saver, since: None, bytes: 0, is_ending: false }.run(inlet)
    })
}

struct Plain<'a, 'b> {
    delivery: &'a mut Delivery<'b>,
    sink: &'a mut dyn PlainSink,
    saver: Saver,
    /// When the first record came that no save covers yet.
    since: Option<Instant>,
    /// How much was written since.
    bytes: usize,
    /// Whether nothing more will be written.
    is_ending: bool,
}

impl Plain<'_, '_> {
    fn run(&mut self, inlet: &Inlet) -> Result<Ended, Trouble> {
        loop {
            let deadline = self.since.and_then(|since| self.delivery.deadline(since));
            match inlet.next(deadline) {
                // What waits is read again by the next run: a slow sink would take long over it.
                Next::Parcel(_) if self.delivery.is_hurried() => {
                    self.save_the_rest()?;
                    return Ok(Ended::Stopped);
                }
                Next::Parcel(Parcel::Batch(batch)) => {
                    if let Err(trouble) = self.write(&batch) {
                        if matches!(trouble, Trouble::Torn(_)) {
                            return Err(trouble);
                        }
                        // What was taken before is kept, so that it is not done again.
                        self.save_and_wait()?;
                        return Err(trouble);
                    }
                    if batch.is_a_beginning() {
                        self.save_and_wait()?;
                    }
                    self.save_if_due()?;
                }
                Next::Parcel(Parcel::Idle) => {
                    self.save_if_idle()?;
                    self.delivery.note_idle();
                }
                // Due, and nothing has come that could be written meanwhile.
                Next::Deadline => self.save_and_wait()?,
                Next::End => {
                    self.save_the_rest()?;
                    return ended(inlet);
                }
            }
        }
    }

    /// Writes a batch, again and again while the sink does not answer.
    fn write(&mut self, batch: &Batch) -> Result<(), Trouble> {
        let cx = self.delivery.cx;
        self.delivery.begin_partition(&batch.partition)?;
        if fault::known_bad("checkpoint_before_durable") {
            self.take(batch);
            self.save_and_wait()?;
            self.write_once(batch)?;
            return self.sink.durable().map(drop).map_err(|e| self.delivery.trouble(&e));
        }
        let mut attempt = 0;
        loop {
            // A sink that cannot fence is only written to while the lease is known to stand.
            let stands = cx.signal.claim_stands();
            if let Some(by) = cx.signal.fenced() {
                return Err(Trouble::Run(cx.fenced(&by)));
            }
            if !stands {
                return Err(Trouble::Unavailable("the claim's lease has lapsed".to_owned()));
            }
            match self.write_once(batch) {
                Err(Trouble::Unavailable(what)) => self.wait_for_sink(&what, attempt)?,
                Err(trouble) => return Err(trouble),
                Ok(()) => break,
            }
            attempt += 1;
        }
        if attempt > 0 {
            self.delivery.figures().note_state(SinkState::Working, None);
        }
        self.take(batch);
        Ok(())
    }

    fn wait_for_sink(&mut self, what: &str, attempt: u32) -> Result<(), Trouble> {
        self.delivery.figures().note_state(SinkState::Behind, Some(what.to_owned()));
        if attempt == 0 {
            self.save_and_wait()?;
        }
        if self.delivery.cx.signal.sleep(backoff(attempt)) {
            return Ok(());
        }
        Err(Trouble::Unavailable(what.to_owned()))
    }

    fn write_once(&mut self, batch: &Batch) -> Result<(), Trouble> {
        fault::point("sink.begin");
        let sink = &mut *self.sink;
        self.delivery.write_rows(batch, |rows| sink.write(batch, rows).map(|_| ()))?;
        fault::point("sink.after");
        Ok(())
    }

    fn take(&mut self, batch: &Batch) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += batch.size();
        self.delivery.taken(batch);
    }

    fn save_if_due(&mut self) -> Result<(), Trouble> {
        let Some(since) = self.since else { return Ok(()) };
        let due =
            self.delivery.is_due(since) || self.bytes >= self.delivery.most_bytes(UNSYNCED_BYTES);
        if !due {
            return Ok(());
        }
        // A disk that cannot keep up is waited for, rather than risking ever more work.
        let patience = self.delivery.interval.target().saturating_mul(2);
        let late = self.delivery.interval.is_exact() || since.elapsed() >= patience;
        if self.saver.is_busy() && !late {
            return self.note_saved(false);
        }
        self.note_saved(true)?;
        self.save()
    }

    /// Nothing more is coming, perhaps for long: what was taken is neither left waiting behind the
    /// save that is under way, nor saved without the source being told.
    fn save_if_idle(&mut self) -> Result<(), Trouble> {
        match self.since {
            Some(since) if self.delivery.is_worth_it_idle(since) => self.save_and_wait(),
            Some(_) => self.note_saved(false),
            None => self.note_saved(true),
        }
    }

    fn save_the_rest(&mut self) -> Result<(), Trouble> {
        self.is_ending = true;
        self.save_and_wait()
    }

    fn save_and_wait(&mut self) -> Result<(), Trouble> {
        self.note_saved(true)?;
        self.save()?;
        self.note_saved(true)
    }

    /// Begins a save of all that was taken.
    fn save(&mut self) -> Result<(), Trouble> {
        if self.delivery.held.pending().next().is_none() {
            return Ok(());
        }
        let began = Instant::now();
        let promise = self.sink.promise().map_err(|e| self.delivery.trouble(&e))?;
        let records = self.delivery.held.pending_records();
        let saves = saves(self.delivery);
        self.delivery.held.saving();
        (self.since, self.bytes) = (None, 0);
        self.saver.start(Request { promise, saves, records });
        self.delivery.note_waited(began.elapsed());
        Ok(())
    }

    /// Takes the result of the save under way, waiting for it if asked to.
    fn note_saved(&mut self, wait: bool) -> Result<(), Trouble> {
        let began = Instant::now();
        let Some(result) = self.saver.result(wait) else { return Ok(()) };
        let waited = began.elapsed();
        self.delivery.note_waited(match &result {
            // At its end a run without checkpoints waits for the disk, too.
            Ok(kept) if self.is_ending => waited.min(kept.storing),
            _ => waited,
        });
        match result {
            Ok(kept) => {
                for (partition, version) in &kept.versions {
                    self.delivery.held.saved(partition, *version);
                }
                self.delivery.interval.saved(kept.cost);
                self.delivery.note_saved(kept.records, Duration::ZERO);
                let partitions: Vec<String> = kept.versions.into_iter().map(|(p, _)| p).collect();
                self.delivery.acknowledge(&partitions);
                Ok(())
            }
            Err(Failed::Sink(error)) => Err(self.delivery.trouble(&error)),
            Err(Failed::Store(error)) => Err(Trouble::Run(error)),
        }
    }
}

/// The saving thread, seen from the writing one.
struct Saver {
    requests: Sender<Request>,
    saved: Receiver<Result<Kept, Failed>>,
    under_way: Option<Instant>,
}

struct Request {
    promise: Promise,
    saves: Vec<Save>,
    records: u64,
}

/// A save that was stored.
struct Kept {
    versions: Vec<(String, u64)>,
    records: u64,
    cost: Duration,
    /// The part of the cost that storing the checkpoint was.
    storing: Duration,
}

enum Failed {
    Sink(SinkError),
    Store(RunError),
}

impl Saver {
    fn is_busy(&self) -> bool {
        self.under_way.is_some() && self.saved.is_empty()
    }

    fn start(&mut self, request: Request) {
        self.under_way = Some(Instant::now());
        // The saving thread ends only after this side has gone.
        let _ = self.requests.send(request);
    }

    /// The result of the save under way, if it is there or waited for.
    fn result(&mut self, wait: bool) -> Option<Result<Kept, Failed>> {
        self.under_way?;
        let result = if wait { self.saved.recv().ok() } else { self.saved.try_recv().ok() };
        if result.is_some() {
            self.under_way = None;
        }
        result
    }
}

fn save_all(
    cx: &Context<'_>,
    sink: &str,
    requests: &Receiver<Request>,
    results: &Sender<Result<Kept, Failed>>,
) {
    for request in requests {
        if results.send(save_one(cx, sink, request)).is_err() {
            return;
        }
    }
}

fn save_one(cx: &Context<'_>, sink: &str, request: Request) -> Result<Kept, Failed> {
    let began = Instant::now();
    let Request { promise, mut saves, records } = request;
    let Durable { state } = promise.keep().map_err(Failed::Sink)?;
    for save in &mut saves {
        save.sink_state.clone_from(&state);
    }
    let partitions: Vec<String> = saves.iter().map(|save| save.key.partition.clone()).collect();
    let durable = Instant::now();
    let versions = cx.save(sink, &saves).map_err(Failed::Store)?;
    let versions = partitions.into_iter().zip(versions).collect();
    Ok(Kept { versions, records, cost: began.elapsed(), storing: durable.elapsed() })
}

fn saves(delivery: &Delivery<'_>) -> Vec<Save> {
    let cx = delivery.cx;
    let save = |(partition, at): (&String, &At)| Save {
        key: CheckpointKey::new(&cx.pipeline.name, partition, delivery.name()),
        expected_version: at.version,
        expected: at.saved.clone(),
        position: at.taken.clone(),
        order: cx.pipeline.source.order(),
        records: at.saved_records + at.taken_records,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    };
    delivery.held.pending().map(save).collect()
}
