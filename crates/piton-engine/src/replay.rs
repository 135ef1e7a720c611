//! Delivering dead letters again.
//!
//! A record that could not be read or transformed goes the whole way once more, to every sink; one
//! that a sink refused goes to that sink. No checkpoint moves. A letter is dropped from the store
//! only when the record is durable, so a crash between delivers it again: an upsert and a receiver
//! that knows the stable id are not disturbed by that.

use std::{path::Path, sync::Arc};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_connectors::{
    batch::{Batch, Marks, Origin},
    file::{FileSource, JsonlSettings},
    sink::{Fence, Resume, Sink, SinkError},
    source::{Source as _, SourceError},
};
use piton_core::{Checkpoint, Claim, DeadLetter, Owner, Save, Store, StoredPosition, dead_letter};
use serde::Serialize;

use crate::{
    pipeline::Pipeline,
    run::{RunError, RunOptions, Signal, claim_for, governing_state, stored_instead},
    transform::Applied,
};

/// What became of one letter.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// The record's stable id.
    pub id: String,
    /// The sink that it was set aside for.
    pub sink: String,
    /// Why it still cannot be delivered; `None`: it was delivered and dropped.
    pub error: Option<String>,
}

/// Delivers letters again, one by one, under the pipeline's claim.
///
/// # Errors
/// [`RunError::Held`] while the pipeline runs; what opening a sink may fail with. A record that
/// still fails is part of the result.
pub fn replay(
    pipeline: &Pipeline,
    store: &dyn Store,
    letters: &[DeadLetter],
    owner: Owner,
) -> Result<Vec<Replayed>, RunError> {
    let options = RunOptions::plain(owner);
    let claim = claim_for(pipeline, store, &options, &Signal::default())?;
    let replay = Replay { pipeline, store, claim: &claim };
    let results = letters.iter().map(|letter| replay.one(letter)).collect();
    block_on(store.release(&claim))?;
    results
}

/// What a sink refused was kept as the JSON that it was given.
fn json_lines() -> Result<FileSource, String> {
    let settings = JsonlSettings::at("dead letters");
    FileSource::new(settings, Path::new("."), 1 << 30).map_err(|error| error.to_string())
}

/// The record of a letter, under the stable id that it always had.
fn marked(batch: Result<Batch, SourceError>, letter: &DeadLetter) -> Result<Batch, String> {
    let mut batch = batch.map_err(|error| error.to_string())?;
    let marks =
        LetterMarks { id: letter.id.clone(), place: letter.place.clone(), end: batch.end.clone() };
    batch.marks = Arc::new(marks);
    Ok(batch)
}

/// Marks a record by what its letter remembers.
struct LetterMarks {
    id: String,
    place: String,
    end: StoredPosition,
}

impl Marks for LetterMarks {
    fn resume_at(&self, _: Origin) -> StoredPosition {
        self.end.clone()
    }

    fn write_id(&self, _: Origin, out: &mut String) {
        out.push_str(&self.id);
    }

    fn write_stable_id(&self, _: &str, origin: Origin, out: &mut String) {
        self.write_id(origin, out);
    }

    fn place(&self, _: Origin) -> String {
        self.place.clone()
    }
}

struct Replay<'a> {
    pipeline: &'a Pipeline,
    store: &'a dyn Store,
    claim: &'a Claim,
}

impl Replay<'_> {
    fn one(&self, letter: &DeadLetter) -> Result<Replayed, RunError> {
        let (id, sink) = (letter.id.clone(), letter.sink.clone());
        let error = match self.records(letter) {
            Err(why) => Some(why),
            Ok(batches) => self.deliver(letter, &batches)?,
        };
        if error.is_none() {
            let key = vec![(sink.clone(), id.clone())];
            block_on(self.store.drop_letters(&self.pipeline.name, key))?;
        }
        Ok(Replayed { id, sink, error })
    }

    /// The record as it goes to sinks, in batches, or why it still cannot.
    fn records(&self, letter: &DeadLetter) -> Result<Vec<Batch>, String> {
        let (partition, record) = (&letter.partition, &letter.record);
        let batch = match &*letter.sink {
            dead_letter::READING => self.pipeline.source.parse(partition, record),
            dead_letter::TRANSFORMING => self.pipeline.source.parse_json(partition, record),
            _ => {
                let batch = json_lines()?.parse(partition, record);
                return Ok(vec![marked(batch, letter)?]);
            }
        };
        let batch = marked(batch, letter)?;
        let mut batches = Vec::new();
        for applied in (self.pipeline.transforms)().apply(batch) {
            let Applied { batch, bad } = applied.map_err(|error| error.to_string())?;
            if let Some(bad) = bad.into_iter().next() {
                return Err(bad.reason);
            }
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Why the record was refused again, if it was.
    fn deliver(&self, letter: &DeadLetter, batches: &[Batch]) -> Result<Option<String>, RunError> {
        let name = &self.pipeline.name;
        let wanted = |spec: &&crate::pipeline::SinkSpec| {
            dead_letter::is_before_sinks(&letter.sink) || spec.name == letter.sink
        };
        let known = block_on(self.store.load(name))?;
        for spec in self.pipeline.sinks.iter().filter(wanted) {
            let delivered = (spec.make)().and_then(|mut sink| {
                let of_sink: Vec<&Checkpoint> =
                    known.iter().filter(|c| c.key.sink == spec.name).collect();
                self.to_sink(&spec.name, &mut sink, batches, &of_sink)
            });
            match delivered {
                Ok(()) => {}
                Err(SinkError::BadRow { reason, .. }) => return Ok(Some(reason)),
                Err(error) => return Err(RunError::of_sink(name, &spec.name, &error)),
            }
        }
        Ok(None)
    }

    /// A file has grown: its new length is saved at the same position, or the next run would cut
    /// the record off.
    fn note_length(
        &self,
        name: &str,
        known: &[&Checkpoint],
        state: Option<String>,
    ) -> Result<(), SinkError> {
        let (Some(checkpoint), Some(state)) = (known.first(), state) else { return Ok(()) };
        let save = Save {
            key: checkpoint.key.clone(),
            expected_version: checkpoint.version,
            expected: checkpoint.position.clone(),
            position: checkpoint.position.clone(),
            order: self.pipeline.source.order(),
            records: checkpoint.records,
            schema_version: checkpoint.schema_version,
            sink_state: Some(state),
            state: Vec::new(),
        };
        let failed = |what: String| SinkError::Failed { what: format!("sink '{name}': {what}") };
        let saved = block_on(self.store.save(self.claim, vec![save], Timestamp::now()))
            .map_err(|error| failed(error.to_string()))?;
        match saved.first() {
            Some(saved) if saved.is_stored() => Ok(()),
            Some(saved) => Err(failed(format!(
                "its checkpoint was changed meanwhile: {}",
                stored_instead(saved)
            ))),
            None => Err(failed("the store did not answer".to_owned())),
        }
    }

    fn to_sink(
        &self,
        name: &str,
        sink: &mut Sink,
        batches: &[Batch],
        known: &[&Checkpoint],
    ) -> Result<(), SinkError> {
        match sink {
            Sink::Transactional(sink) => {
                let _ = sink.fence(&Fence {
                    pipeline: self.pipeline.name.clone(),
                    sink: name.to_owned(),
                    epoch: self.claim.epoch,
                    partitions: known.iter().map(|c| c.key.partition.clone()).collect(),
                    orders: Vec::new(),
                })?;
                let mut transaction = sink.begin()?;
                for batch in batches {
                    transaction.write(batch, 0..batch.rows())?;
                }
                let _ = transaction.commit(&[])?;
                Ok(())
            }
            Sink::Plain(sink) => {
                let state = governing_state(known.iter().copied());
                let _ = sink.open(&Resume { state, adopt: false, output: None })?;
                for batch in batches {
                    let _ = sink.write(batch, 0..batch.rows())?;
                }
                let durable = sink.durable()?;
                self.note_length(name, known, durable.state)
            }
        }
    }
}
