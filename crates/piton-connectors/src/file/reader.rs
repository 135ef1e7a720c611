//! Reading files to their ends, one after another.

use std::collections::VecDeque;

use super::{
    partition::{Found, Partition},
    position::{FilePosition, Guessed},
    resume,
    source::FileSource,
};
use crate::source::{Read, Reader, SourceError};

/// Reads the files that were there when it began, in the order of their names. Each is opened,
/// and checked, when its turn comes.
pub(super) struct FileReader {
    source: FileSource,
    guessed: Option<Guessed>,
    waiting: VecDeque<(Found, Option<FilePosition>)>,
    current: Option<Partition>,
}

impl FileReader {
    pub(super) fn new(
        source: FileSource,
        positions: &[(String, FilePosition)],
    ) -> Result<Self, SourceError> {
        let found = source.find()?;
        source.check_types(&found)?;
        let guessed = source.guess(&found, positions)?;
        let gone = positions.iter().find(|(name, _)| {
            source.names(name) && found.iter().all(|found| *found.name != **name)
        });
        if let Some((name, position)) = gone.filter(|_| !source.accept) {
            return Err(resume::gap(name, position, "the file is gone", true));
        }
        let position = |found: &Found| {
            positions.iter().find(|(name, _)| **name == *found.name).map(|(_, p)| p.clone())
        };
        let waiting = found.into_iter().map(|found| {
            let position = position(&found);
            (found, position)
        });
        Ok(Self { waiting: waiting.collect(), source, guessed, current: None })
    }
}

impl Reader for FileReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        loop {
            if let Some(partition) = &mut self.current {
                if let Some(read) = partition.read(limit)? {
                    return Ok(read);
                }
                self.current = None;
            }
            let Some((found, position)) = self.waiting.pop_front() else {
                return Ok(Read::Finished);
            };
            let guessed = self.guessed.as_ref();
            // An empty file has no columns, and no records either.
            self.current = self.source.open(&found, position.as_ref(), guessed)?;
        }
    }
}
