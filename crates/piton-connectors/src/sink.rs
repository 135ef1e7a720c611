//! Sinks: where records go, and when they are safe there.
//!
//! *Accepted* and *durable* are different types, because only the second may move a checkpoint.
//! A transactional sink keeps its checkpoint in its own database, in the transaction of the rows:
//! each record's effect is there exactly once. A plain sink promises durability when asked, and a
//! crash repeats at most what lies between.

use std::{ops::Range, time::Duration};

use piton_core::{Checkpoint, Epoch, Order};

use crate::batch::Batch;

/// A sink of either sort.
pub enum Sink {
    /// Keeps its own checkpoint.
    Transactional(Box<dyn TransactionalSink>),
    /// Its checkpoint is kept in the store.
    Plain(Box<dyn PlainSink>),
}

/// What a sink promises, for `plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarantee {
    /// `exactly once`, `at least once`, …
    pub what: &'static str,
    /// Why, and what is missing for more.
    pub why: String,
}

/// What identifies the claim under which a sink is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The pipeline's name.
    pub pipeline: String,
    /// The sink's name in the pipeline.
    pub sink: String,
    /// The epoch of the claim.
    pub epoch: Epoch,
    /// The claimed partitions that are known now.
    pub partitions: Vec<String>,
    /// Orders to apply in the same transaction, oldest first.
    pub orders: Vec<Order>,
}

/// How far a partition's checkpoint advances with a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The partition's name.
    pub partition: String,
    /// The new position.
    pub position: piton_core::StoredPosition,
    /// Records read up to there, over all runs.
    pub records: u64,
}

/// A sink whose effects and checkpoint commit together.
pub trait TransactionalSink: Send {
    /// What it promises.
    fn guarantee(&self) -> Guarantee;

    /// Where it is, for people.
    fn location(&self) -> String;

    /// The checkpoints it holds of a pipeline's sink, verified, without writing or creating
    /// anything. Empty if the target is not there yet.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when they are damaged.
    fn peek(&mut self, pipeline: &str, sink: &str) -> Result<Vec<Checkpoint>, SinkError>;

    /// Decides what else speaks against going on from the checkpoints that it holds, changing
    /// nothing: what was written is gone. `orders` are those that are to be applied.
    ///
    /// # Errors
    /// [`SinkError::Refused`] with the choices.
    fn inspect(&mut self, pipeline: &str, sink: &str, orders: &[Order]) -> Result<(), SinkError> {
        let _ = (pipeline, sink, orders);
        Ok(())
    }

    /// An operator asked to go on from the checkpoints with an empty target, if what was written
    /// is gone: the next [`fence`](Self::fence) does not refuse that. What goes while it is
    /// written is refused all the same.
    fn adopt(&mut self) {}

    /// The newest epoch that has written to a pipeline's sink; it outlives the checkpoints.
    ///
    /// # Errors
    /// As [`peek`](Self::peek).
    fn newest_epoch(&mut self, pipeline: &str, sink: &str) -> Result<Epoch, SinkError> {
        let newest = self.peek(pipeline, sink)?.into_iter().map(|c| c.epoch).max();
        Ok(newest.unwrap_or_default())
    }

    /// Takes over: in one transaction writes the epoch to the checkpoint rows of the claimed
    /// partitions (creating them), applies orders, and only then reads what it holds. Waits for
    /// the old owner's open transaction.
    ///
    /// # Errors
    /// [`SinkError::Fenced`] when a row has a newer epoch; [`SinkError::Refused`] with the choices
    /// when what was written is gone, as far as [`inspect`](Self::inspect) was not asked.
    fn fence(&mut self, fence: &Fence) -> Result<Vec<Checkpoint>, SinkError>;

    /// The longest that a transaction may stay open, if there is a limit: it is then committed,
    /// whatever the interval.
    fn longest(&self) -> Option<Duration> {
        None
    }

    /// Begins a transaction under the fence.
    ///
    /// # Errors
    /// [`SinkError::Fenced`] when a newer claim has taken over.
    fn begin(&mut self) -> Result<Box<dyn Transaction + '_>, SinkError>;

    /// Removes the pipeline's checkpoints in a transaction of its own, under the fence.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    fn forget(&mut self) -> Result<(), SinkError>;
}

/// An open transaction of a sink. Dropped without a commit, it rolls back.
pub trait Transaction {
    /// Writes rows of a batch.
    ///
    /// # Errors
    /// [`SinkError::BadRow`]: the rows before it in the range are written, it and those after are not.
    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError>;

    /// Commits rows and checkpoints together, comparing the epoch inside the transaction. Without
    /// an advance the rows alone: a crash repeats them.
    ///
    /// # Errors
    /// [`SinkError::Fenced`]: nothing was written. [`SinkError::InDoubt`]: fence again, then read.
    fn commit(self: Box<Self>, upto: &[Advance]) -> Result<Committed, SinkError>;
}

/// The checkpoints that a commit stored, as they now stand in the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the store mirrors what was committed"]
pub struct Committed {
    /// One for each advance.
    pub checkpoints: Vec<Checkpoint>,
    /// The part of the commit that keeping the checkpoint took.
    pub checkpointing: Duration,
}

/// A sink whose checkpoint is kept in the store.
pub trait PlainSink: Send {
    /// What it promises.
    fn guarantee(&self) -> Guarantee;

    /// Where it is, for people.
    fn location(&self) -> String;

    /// Decides every refusal, changing nothing: whether the target is what the checkpoints say.
    /// `resume` is what it is to be resumed from.
    ///
    /// # Errors
    /// [`SinkError::Refused`] with the choices; [`SinkError::Held`] when another process writes it.
    fn inspect(&mut self, resume: &Resume) -> Result<(), SinkError>;

    /// The state of what is there now, changing nothing: what a "begun" checkpoint records before
    /// the first byte.
    ///
    /// # Errors
    /// What looking may fail with.
    fn present(&mut self) -> Result<Durable, SinkError>;

    /// Opens it for writing at that place: a file is cut to its durable length.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect).
    fn open(&mut self, resume: &Resume) -> Result<Durable, SinkError>;

    /// Takes rows of a batch.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`]: none of the rows counts as taken, try again.
    /// [`SinkError::BadRow`]: the rows before it in the range are taken, it and those after are not.
    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Accepted, SinkError>;

    /// Promises that all that was accepted up to now will be durable. Writing may go on while the
    /// promise is kept on another thread.
    ///
    /// # Errors
    /// What handing the data to the operating system may fail with.
    fn promise(&mut self) -> Result<Promise, SinkError>;

    /// Promises, and keeps the promise at once.
    ///
    /// # Errors
    /// As [`promise`](Self::promise) and [`Promise::keep`].
    fn durable(&mut self) -> Result<Durable, SinkError> {
        self.promise()?.keep()
    }

    /// The run ends well: all that was accepted is durable, and nothing more comes.
    ///
    /// # Errors
    /// [`SinkError::Failed`] for what went wrong afterwards. No record is lost by it.
    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// The source has come to its end, and all of it is durable here: what is to be seen only when it
    /// is whole may be seen now. Called before [`finish`](Self::finish), and again by a run that finds
    /// nothing more to do.
    ///
    /// # Errors
    /// [`SinkError::Failed`] if it cannot be seen; no record is lost by it.
    fn complete(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// From what a plain sink is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resume {
    /// The sink state of its newest checkpoint; `None` when there is none.
    pub state: Option<String>,
    /// Whether an operator asked to take over what is there.
    pub adopt: bool,
    /// A pending order's choice about output past the position.
    pub output: Option<piton_core::Output>,
}

/// A sink has taken records; they may still be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "accepted is not durable"]
pub struct Accepted {
    /// How many rows.
    pub rows: u64,
}

/// A sink's word that what it had accepted will be durable. Only keeping it gives [`Durable`].
#[must_use = "a promise that is not kept moves no checkpoint"]
pub struct Promise(Box<dyn FnOnce() -> Result<Durable, SinkError> + Send>);

impl Promise {
    /// A promise that is kept by doing something, such as syncing a file.
    pub fn by(keep: impl FnOnce() -> Result<Durable, SinkError> + Send + 'static) -> Self {
        Self(Box::new(keep))
    }

    /// A promise of a sink for which accepted is durable.
    pub fn kept(durable: Durable) -> Self {
        Self::by(|| Ok(durable))
    }

    /// Makes it true.
    ///
    /// # Errors
    /// After a failed sync the sink is not used again: a second sync could lie.
    pub fn keep(self) -> Result<Durable, SinkError> {
        (self.0)()
    }
}

/// All that was accepted survives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "only what is durable moves a checkpoint, and its state belongs into it"]
pub struct Durable {
    /// What the sink must find again, as a JSON object. Where several checkpoints of a sink carry
    /// one, the one with the largest `length` governs: a file only grows.
    pub state: Option<String>,
}

/// Why a sink could not do what it was asked. Named by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// It does not answer now. Try again, with patience.
    #[error("{what}")]
    Unavailable {
        /// What failed, where.
        what: String,
    },
    /// One row cannot be taken; the others can.
    #[error("row {row}: {reason}")]
    BadRow {
        /// Its index in the batch.
        row: usize,
        /// What is wrong, with column and value.
        reason: String,
    },
    /// The settings cannot work. Exit code 2.
    #[error("{what}")]
    Settings {
        /// What is wrong and how to mend it.
        what: String,
    },
    /// What is there does not match or cannot be trusted. Exit code 3.
    #[error("{what}")]
    Refused {
        /// What was found, and the choices.
        what: String,
    },
    /// Another process holds it. Exit code 4.
    #[error("{what}")]
    Held {
        /// What and, as far as known, who.
        what: String,
    },
    /// A newer claim has taken over. Exit code 4.
    #[error("a newer claim (epoch {epoch}) has taken over {at}")]
    Fenced {
        /// The newer epoch.
        epoch: Epoch,
        /// Which sink.
        at: String,
    },
    /// It is not known whether a commit took effect. Fence, then read.
    #[error("it is not known whether the last commit to {at} took effect: {what}")]
    InDoubt {
        /// Which sink.
        at: String,
        /// What failed.
        what: String,
        /// Whether nobody answered, as when a connection is lost. Then there is no limit to
        /// trying: what the sink holds is true once it answers again.
        lost: bool,
    },
    /// It failed for good: a full disk, a failed sync. Exit code 1.
    #[error("{what}")]
    Failed {
        /// What failed, where, and what to do.
        what: String,
    },
}
