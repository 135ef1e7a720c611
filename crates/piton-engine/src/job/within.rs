//! One pipeline for many parents, one after the other: its positions say for which parent they are.
//! One of another parent counts as none, so that each parent is read from its beginning, and what was
//! begun goes on.

use std::{cmp::Ordering, sync::Arc};

use piton_connectors::{
    batch::{Batch, Marks, Origin},
    source::{Read, Reader, Source, SourceError, Start},
};
use piton_core::{Checkpoint, Position, PositionOrder, StoredPosition, position::order_of};
use serde::{Deserialize, Serialize};

use super::body::At;
use crate::{connect, pipeline::Pipeline};

/// A position in what is read for one parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WithinPosition {
    /// The parent's id.
    within: String,
    #[serde(flatten)]
    at: At,
}

impl PartialOrd for WithinPosition {
    /// Parents come in an order that only their source knows.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self.within != other.within {
            return Some(Ordering::Greater);
        }
        let (mine, other) = (self.at.stored(), other.at.stored());
        connect::order_of_kind(&mine.kind)?(&mine, &other)
    }
}

impl Position for WithinPosition {
    const KIND: &'static str = "within";
}

/// Where a pipeline stands in what is read for a parent; `None` if it stands elsewhere.
pub(crate) fn standing(parent: &str, position: &StoredPosition) -> Option<StoredPosition> {
    let position: WithinPosition = position.read().ok()?;
    (position.within == parent).then(|| position.at.stored())
}

/// Whether a checkpoint was stored for a parent, or for one below it.
pub(crate) fn is_of(parent: &str, checkpoint: &Checkpoint) -> bool {
    let position = checkpoint.position.as_ref();
    let position = position.and_then(|position| position.read::<WithinPosition>().ok());
    let rest = position.as_ref().and_then(|position| position.within.strip_prefix(parent));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" / "))
}

impl Pipeline {
    /// The same, run for a parent.
    pub(crate) fn within(self, parent: &str) -> Self {
        let parent: Arc<str> = parent.into();
        let strict = self.strict.map(|strict| within(strict, &parent));
        Self { source: within(self.source, &parent), strict, ..self }
    }
}

fn within(of: Arc<dyn Source>, parent: &Arc<str>) -> Arc<dyn Source> {
    Arc::new(Within { of, parent: Arc::clone(parent) })
}

/// What is read for one parent.
struct Within {
    of: Arc<dyn Source>,
    parent: Arc<str>,
}

impl Within {
    fn start(&self, start: &Start) -> Result<Start, SourceError> {
        let position = start.position.as_ref().map(StoredPosition::read::<WithinPosition>);
        let position = position.transpose()?.filter(|at| at.within == *self.parent);
        Ok(Start {
            partition: start.partition.clone(),
            position: position.map(|position| position.at.stored()),
        })
    }

    fn starts(&self, starts: &[Start]) -> Result<Vec<Start>, SourceError> {
        starts.iter().map(|start| self.start(start)).collect()
    }
}

impl Source for Within {
    fn kind(&self) -> &'static str {
        self.of.kind()
    }

    fn identity(&self) -> serde_json::Value {
        self.of.identity()
    }

    fn order(&self) -> PositionOrder {
        order_of::<WithinPosition>
    }

    fn is_bounded(&self) -> bool {
        self.of.is_bounded()
    }

    fn partitions(&self) -> Result<Vec<String>, SourceError> {
        self.of.partitions()
    }

    fn partitions_after(&self, known: &[String]) -> Result<Vec<String>, SourceError> {
        self.of.partitions_after(known)
    }

    fn remarks(&self) -> Vec<String> {
        self.of.remarks()
    }

    fn verify(&self, start: &Start, thorough: bool) -> Result<(), SourceError> {
        self.of.verify(&self.start(start)?, thorough)
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        let of = self.of.reader(&self.starts(starts)?)?;
        Ok(Box::new(WithinReader { of, parent: Arc::clone(&self.parent) }))
    }

    fn acknowledge(&self, partition: &str, position: &StoredPosition) {
        if let Some(position) = standing(&self.parent, position) {
            self.of.acknowledge(partition, &position);
        }
    }

    fn trouble(&self) -> Option<String> {
        self.of.trouble()
    }

    fn progress(&self, starts: &[Start]) -> Option<(u64, u64)> {
        self.of.progress(&self.starts(starts).ok()?)
    }

    fn parse(&self, partition: &str, raw: &str) -> Result<Batch, SourceError> {
        self.of.parse(partition, raw)
    }

    fn parse_json(&self, partition: &str, json: &str) -> Result<Batch, SourceError> {
        self.of.parse_json(partition, json)
    }
}

fn stored(parent: &str, position: &StoredPosition) -> StoredPosition {
    let position = WithinPosition { within: parent.to_owned(), at: At::of(position) };
    let json = serde_json::to_string(&position).unwrap_or_default();
    StoredPosition { kind: WithinPosition::KIND.to_owned(), json }
}

struct WithinReader {
    of: Box<dyn Reader>,
    parent: Arc<str>,
}

impl Reader for WithinReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        Ok(match self.of.read(limit)? {
            Read::Batch(mut batch) => {
                batch.end = stored(&self.parent, &batch.end);
                batch.marks =
                    Arc::new(WithinMarks { of: batch.marks, parent: Arc::clone(&self.parent) });
                Read::Batch(batch)
            }
            Read::Bad(mut bad) => {
                bad.end = stored(&self.parent, &bad.end);
                bad.id = format!("{}/{}", self.parent, bad.id);
                Read::Bad(bad)
            }
            read => read,
        })
    }
}

struct WithinMarks {
    of: Arc<dyn Marks>,
    parent: Arc<str>,
}

impl Marks for WithinMarks {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        stored(&self.parent, &self.of.resume_at(origin))
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        self.of.write_id(origin, out);
    }

    /// Two parents may have records of the same place.
    fn write_stable_id(&self, partition: &str, origin: Origin, out: &mut String) {
        out.push_str(&self.parent);
        out.push('/');
        self.of.write_stable_id(partition, origin, out);
    }

    fn place(&self, origin: Origin) -> String {
        self.of.place(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_ordered_within_its_parent_and_counts_for_no_other() {
        let at = |parent: &str, n: u64| stored(parent, &StoredPosition::of(&n).unwrap());
        let order = order_of::<WithinPosition>;
        assert_eq!(order(&at("a", 1), &at("a", 2)), Some(Ordering::Less));
        assert_eq!(order(&at("b", 1), &at("a", 2)), Some(Ordering::Greater));
        assert_eq!(standing("a", &at("a", 7)), StoredPosition::of(&7_u64).ok());
        assert_eq!(standing("b", &at("a", 7)), None);
    }
}
