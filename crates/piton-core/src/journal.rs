//! What happened and what is wanted: runs, events, orders, and the registered definition of a pipeline.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    CheckpointKey,
    checksum::{Checksum, Form},
    claim::{Epoch, Owner},
    position::StoredPosition,
};

/// One run of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Numbered by the store.
    pub id: u64,
    /// The pipeline's name.
    pub pipeline: String,
    /// The claim it ran under.
    pub epoch: Epoch,
    /// Who ran it.
    pub owner: Owner,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs, or when it died before anybody noticed.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub end: Option<RunEnd>,
    /// Records read in this run.
    pub records: u64,
    /// Why it failed.
    pub error: Option<String>,
    /// Live figures of the run (rate, interval in force, sinks behind), as JSON of the engine's shape.
    pub progress: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// The source's end was reached and everything is durable.
    Finished,
    /// It was asked to stop, drained and saved.
    Stopped,
    /// It was cancelled by an operator.
    Cancelled,
    /// It stopped with an error.
    Failed,
    /// A newer claim took over.
    Fenced,
    /// It died without a word; noticed by its heir.
    Crashed,
}

impl RunEnd {
    /// The word at rest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Fenced => "fenced",
            Self::Crashed => "crashed",
        }
    }

    /// The end that a word at rest names.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Finished, Self::Stopped, Self::Cancelled, Self::Failed, Self::Fenced, Self::Crashed]
            .into_iter()
            .find(|end| end.as_str() == word)
    }
}

/// Something worth remembering: who did what, when, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Numbered by the store; 0 in an event that is yet to be recorded.
    pub id: u64,
    /// The pipeline's name.
    pub pipeline: String,
    /// When.
    pub at: Timestamp,
    /// Who: `user@host`, or the run's owner.
    pub who: String,
    /// What, in one word: `reset`, `rewind`, `pause`, `transform_changed`, …
    pub what: String,
    /// The rest, as a sentence.
    pub detail: String,
}

/// An operator's order to forget or go back. The next owner applies it in the sink's transaction,
/// before it reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Numbered by the store; 0 in an order that is yet to be given.
    pub id: u64,
    /// The pipeline's name.
    pub pipeline: String,
    /// The partition, or [`crate::claim::WHOLE`] for all.
    pub partition: String,
    /// The sink, or [`crate::claim::WHOLE`] for all.
    pub sink: String,
    /// Forget, or go back.
    pub kind: OrderKind,
    /// Where to go back to; `None` for a reset.
    pub position: Option<StoredPosition>,
    /// Records read up to there.
    pub records: u64,
    /// What the sink had at that position (a file's length), as JSON.
    pub sink_state: Option<String>,
    /// What becomes of output past the position.
    pub output: Option<Output>,
    /// Who gave it.
    pub who: String,
    /// When.
    pub at: Timestamp,
    /// When it was applied.
    pub applied_at: Option<Timestamp>,
}

impl Order {
    /// An order to forget a checkpoint, yet to be given.
    pub fn reset(of: &CheckpointKey, who: &str, at: Timestamp) -> Self {
        Self {
            id: 0,
            pipeline: of.pipeline.clone(),
            partition: of.partition.clone(),
            sink: of.sink.clone(),
            kind: OrderKind::Reset,
            position: None,
            records: 0,
            sink_state: None,
            output: None,
            who: who.to_owned(),
            at,
            applied_at: None,
        }
    }

    /// The checksum over every column but `applied_at`, kept in the row. The number counts, too,
    /// because orders are applied in its sequence.
    pub fn checksum(&self) -> Checksum {
        Checksum::build()
            .number(self.id)
            .text(&self.pipeline)
            .text(&self.partition)
            .text(&self.sink)
            .text(self.kind.as_str())
            .maybe(self.position.as_ref().map(|p| p.kind.as_str()))
            .maybe(self.position.as_ref().map(|p| p.json.as_str()))
            .number(self.records)
            .maybe(self.sink_state.as_deref())
            .maybe(self.output.map(Output::as_str))
            .text(&self.who)
            .text(&self.at.to_string())
            .finish()
    }

    /// Whether it speaks of this partition and sink.
    pub fn covers(&self, partition: &str, sink: &str) -> bool {
        let any = crate::claim::WHOLE;
        (self.partition == any || self.partition == partition)
            && (self.sink == any || self.sink == sink)
    }
}

/// What an order wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// Begin anew.
    Reset,
    /// Go back to an earlier checkpoint.
    Rewind,
}

impl OrderKind {
    /// The word at rest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Rewind => "rewind",
        }
    }

    /// The kind that a word at rest names.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Reset, Self::Rewind].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What becomes of output past the position that an order goes back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Cut to that position.
    Truncate,
    /// Kept; records will repeat in it.
    Keep,
}

impl Output {
    /// The word at rest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Truncate => "truncate",
            Self::Keep => "keep",
        }
    }

    /// The choice that a word at rest names.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Truncate, Self::Keep].into_iter().find(|output| output.as_str() == word)
    }
}

/// What an operator wants a pipeline to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Go on.
    #[default]
    Run,
    /// Idle at the next record boundary.
    Pause,
    /// Drain and end; a new run needs `--again`.
    Cancel,
}

impl Control {
    /// The word at rest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Cancel => "cancel",
        }
    }

    /// The wish that a word at rest names.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Run, Self::Pause, Self::Cancel].into_iter().find(|control| control.as_str() == word)
    }
}

/// What a store remembers of a pipeline's definition, to notice a change between runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineRecord {
    /// The pipeline's name.
    pub pipeline: String,
    /// What identifies the source (kind, path or query), as JSON of the engine's shape.
    pub source: String,
    /// The transforms, as JSON.
    pub transforms: String,
    /// The sinks' names and kinds, as JSON.
    pub sinks: String,
    /// What an operator wants.
    pub control: Control,
    /// Where the configuration was read from, for people.
    pub file: Option<String>,
}

impl PipelineRecord {
    /// The checksum over every column, kept in the row.
    pub fn checksum(&self) -> Checksum {
        self.checksum_as(Form::Native)
    }

    /// The checksum in one of the forms.
    pub fn checksum_as(&self, form: Form) -> Checksum {
        Checksum::build_as(form)
            .text(&self.pipeline)
            .text(&self.source)
            .text(&self.transforms)
            .text(&self.sinks)
            .text(self.control.as_str())
            .maybe(self.file.as_deref())
            .finish()
    }
}
