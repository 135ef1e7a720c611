//! Reading files as they grow, through rotation.
//!
//! A partition is a path, and what is read from it is the succession of files that stood there. A
//! file that was moved away is first read to its end, through the handle that is still open; then
//! reading goes on at the beginning of the next one, and the *rotation* of the position counts one
//! up, so that positions never go back. If the file was copied and cut instead (`copytruncate`), the
//! rest of it is read from the copy. Generations that came and went in between are read in their
//! order.
//!
//! A line without its end is waited for. A writer may go on writing to a file that was moved away
//! until it is told to open the new one: so the old file is left only after it has been quiet for
//! a while, and if something is written to it even later, that is an error and not a loss unnoticed.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    partition::Found,
    position::{FilePosition, Guessed},
    rotation::is_generation_of,
    source::FileSource,
};
use crate::source::{Read, Reader, SourceError};

mod generation;
#[cfg(test)]
mod tests;

use generation::Followed;

/// How long a file that was moved away must be quiet before it is left.
const SETTLE: Duration = Duration::from_secs(2);

/// How long the copy of a file that was cut is looked for.
const SEARCH: Duration = Duration::from_secs(10);

/// How long nothing is done when there is nothing to read.
const PAUSE: Duration = Duration::from_millis(50);

/// How often new files are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Reads files as they grow.
pub(super) struct FollowReader {
    source: FileSource,
    times: Times,
    files: Vec<Followed>,
    guessed: Option<Guessed>,
    /// Whose turn it is.
    turn: usize,
    /// When new files were looked for.
    looked: Instant,
}

/// How long things are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// [`SETTLE`]
    settle: Duration,
    /// [`SEARCH`]
    search: Duration,
    /// [`LOOK`]
    look: Duration,
    /// [`PAUSE`]
    pause: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { settle: SETTLE, search: SEARCH, look: LOOK, pause: PAUSE }
    }
}

/// What all files are read with.
struct Terms<'a> {
    source: &'a FileSource,
    times: Times,
    guessed: Option<&'a Guessed>,
}

impl FollowReader {
    pub(super) fn new(
        source: FileSource,
        positions: &[(String, FilePosition)],
        times: Times,
    ) -> Result<Self, SourceError> {
        let found = source.find()?;
        source.check_types(&found)?;
        let guessed = source.guess(&found, positions)?;
        let named = positions.iter().filter(|(name, _)| source.names(name));
        let known = named.map(|(name, position)| (source.found(name), position));
        let files = known
            .filter(|(file, _)| !found.iter().any(|f| is_generation_of(&f.path, &file.path)))
            .map(|(file, position)| Followed::new(file, Some(position.clone())))
            .collect();
        let mut reader = Self { source, times, files, guessed, turn: 0, looked: Instant::now() };
        reader.add(found);
        // What cannot be gone on in is told of now, not when it is its turn.
        let terms = Terms { source: &reader.source, times, guessed: reader.guessed.as_ref() };
        reader.files.iter_mut().try_for_each(|file| file.open(&terms))?;
        Ok(reader)
    }

    /// Adds files that are not followed yet.
    fn add(&mut self, found: Vec<Found>) {
        for found in found {
            if self.files.iter().all(|file| file.found.name != found.name) {
                self.files.push(Followed::new(found, None));
            }
        }
        self.files.sort_by(|a, b| a.found.name.cmp(&b.found.name));
    }

    fn look_for_new(&mut self) -> Result<(), SourceError> {
        if self.looked.elapsed() < self.times.look {
            return Ok(());
        }
        let found = self.source.find()?;
        if self.guessed.is_none() {
            self.guessed = self.source.guess(&found, &[])?;
        }
        self.add(found);
        self.looked = Instant::now();
        Ok(())
    }

    /// Asks each file once, beginning after the one that gave something last.
    fn ask(&mut self, limit: usize) -> Result<Option<Read>, SourceError> {
        let guessed = self.guessed.as_ref();
        let terms = Terms { source: &self.source, times: self.times, guessed };
        for _ in 0..self.files.len() {
            self.turn = (self.turn + 1) % self.files.len();
            if let Some(read) = self.files[self.turn].read(&terms, limit)? {
                return Ok(Some(read));
            }
        }
        Ok(None)
    }
}

impl Reader for FollowReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        self.look_for_new()?;
        if let Some(read) = self.ask(limit)? {
            return Ok(read);
        }
        thread::sleep(self.times.pause);
        Ok(Read::Idle)
    }
}
