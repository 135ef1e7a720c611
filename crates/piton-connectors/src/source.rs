//! Sources: what is read, in order, from a position.

use std::path::PathBuf;

use piton_core::{PositionError, PositionOrder, StoredPosition};

use crate::batch::Batch;

/// Something that can be read in order, again and again, from any position it has given.
pub trait Source: Send + Sync {
    /// The kind, as the configuration names it: `csv`, `sql`, …
    fn kind(&self) -> &'static str;

    /// What must stay the same between runs for positions to mean the same: kind, path or query.
    /// Compared as text; shown to people when it differs.
    fn identity(&self) -> serde_json::Value;

    /// How its positions are ordered.
    fn order(&self) -> PositionOrder;

    /// Whether it has an end. Without one it is tailed or polled until it is told to stop.
    fn is_bounded(&self) -> bool;

    /// The partitions that are there now.
    ///
    /// # Errors
    /// [`SourceError::Missing`] when there is nothing to read at all.
    fn partitions(&self) -> Result<Vec<String>, SourceError>;

    /// The same, where some are known from before. A source that chooses itself how it is cut into
    /// partitions keeps to what it chose.
    ///
    /// # Errors
    /// As [`partitions`](Self::partitions); [`SourceError::Gap`] when those that are known do not
    /// belong together.
    fn partitions_after(&self, known: &[String]) -> Result<Vec<String>, SourceError> {
        let _ = known;
        self.partitions()
    }

    /// What a person should know before it is read, in sentences: what it does not see.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether reading can go on from a position: the source is the one it was, and what was
    /// consumed has not been changed. `thorough` checks all of what was consumed.
    ///
    /// # Errors
    /// [`SourceError::Gap`] with what differs.
    fn verify(&self, start: &Start, thorough: bool) -> Result<(), SourceError>;

    /// Begins to read. Partitions that `starts` does not name are read from their beginning.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), and what opening may fail with.
    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError>;

    /// Everything up to a position is durable where the commit policy wants it: the source may
    /// forget it. Sources that keep their data have nothing to do.
    fn acknowledge(&self, partition: &str, position: &StoredPosition) {
        let _ = (partition, position);
    }

    /// What keeps it from going on now although it has not ended, as a sentence for people: a server
    /// that is away, a transaction that hides what is there. `None` while nothing does.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// How far positions are into the source and how much there is in all, in the same unit
    /// (bytes, rows), where both are cheap to know. For progress and ETA only.
    fn progress(&self, starts: &[Start]) -> Option<(u64, u64)>;

    /// Reads one record from the raw text that a dead letter keeps of it.
    ///
    /// # Errors
    /// Says why it still cannot be read.
    fn parse(&self, partition: &str, raw: &str) -> Result<Batch, SourceError>;

    /// Reads one record from the JSON that a dead letter keeps of one that was read, and that a
    /// transform could not take. Sources whose raw text is no JSON do not read it as such.
    ///
    /// # Errors
    /// Says why it cannot be read.
    fn parse_json(&self, partition: &str, json: &str) -> Result<Batch, SourceError> {
        self.parse(partition, json)
    }
}

/// Where to begin in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The partition's name.
    pub partition: String,
    /// The stored position; `None` for the beginning.
    pub position: Option<StoredPosition>,
}

/// Reads records in order.
pub trait Reader: Send {
    /// Reads at most `limit` records of one partition. May wait a little for more of an endless
    /// source, never longer than a tenth of a second, so that a request to stop is heard.
    ///
    /// # Errors
    /// What reading may fail with. After an error the reader is not used again.
    fn read(&mut self, limit: usize) -> Result<Read, SourceError>;
}

/// What a read gave.
#[derive(Debug)]
pub enum Read {
    /// Records. A batch ends before a record that cannot be read.
    Batch(Batch),
    /// A record that cannot be read. Reading goes on after it.
    Bad(BadRecord),
    /// An endless source has nothing more now.
    Idle,
    /// A bounded source has been read to its end.
    Finished,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// The partition's name.
    pub partition: String,
    /// Its stable id.
    pub id: String,
    /// Where a person finds it: file, line, column.
    pub place: String,
    /// What is wrong, with the value.
    pub reason: String,
    /// The record as read, at most some KiB of it, lossily decoded.
    pub record: String,
    /// Where reading goes on after it.
    pub end: StoredPosition,
}

/// Why a source could not be read. Named by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is nothing there. Exit code 2 at start.
    #[error("nothing to read: {what}. Check the path in the configuration")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// The settings cannot work. Exit code 2.
    #[error("{what}")]
    Settings {
        /// What is wrong and how to mend it.
        what: String,
    },
    /// The source cannot continue from the position: changed, shortened, gone. Exit code 3.
    #[error("{partition} cannot be continued from {position}: {what}")]
    Gap {
        /// The partition.
        partition: String,
        /// The position that is stored.
        position: String,
        /// What differs, and the choices.
        what: String,
    },
    /// A stored position that this source cannot use. Exit code 3.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// The operating system failed. Exit code 1.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: std::io::Error,
    },
    /// The system that is read failed. Worth another try.
    #[error("{what}")]
    Failed {
        /// What failed, where.
        what: String,
    },
}
