//! One path that is followed, and the files that stand there one after another.

use std::{
    cmp::Ordering,
    collections::HashSet,
    fs::{self, File},
    io::{self, ErrorKind},
    mem::discriminant,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    super::{
        identity::FileId,
        input,
        locate::{self, Located},
        partition::{Found, Partition},
        position::FilePosition,
        resume,
        rotation::{Age, Sibling, siblings},
        settings::Compression,
    },
    SETTLE, Terms,
};
use crate::source::{Read, SourceError};

/// A path that is followed.
pub(super) struct Followed {
    pub(super) found: Found,
    /// Where to begin when it is opened.
    begin: Option<FilePosition>,
    /// How often what stood there was rotated away.
    rotation: u64,
    open: Option<Open>,
    /// The files beside it that were there before the one that is read.
    older: HashSet<FileId>,
    /// The file that was read before, and how long it was.
    left: Option<(File, u64)>,
}

/// The file that is read.
struct Open {
    partition: Partition,
    id: Option<FileId>,
    phase: Phase,
    /// When it had been written to last, as its beginning was compared last.
    modified: Option<SystemTime>,
}

/// How far reading it is.
#[derive(Clone)]
enum Phase {
    /// There may be more.
    Reading,
    /// Its end was reached for now.
    AtEnd {
        /// Since when it has been moved away and quiet.
        quiet: Option<Instant>,
    },
    /// It was cut while it was read.
    Cut {
        /// When that was seen.
        since: Instant,
        /// How far it was read before.
        position: Box<FilePosition>,
    },
    /// It was moved away, and its end is the end.
    Sealed,
    /// Nothing more is read from it.
    Done,
}

impl Followed {
    pub(super) fn new(found: Found, begin: Option<FilePosition>) -> Self {
        let rotation = begin.as_ref().map_or(0, |position| position.rotation);
        Self { found, begin, rotation, open: None, older: HashSet::new(), left: None }
    }

    /// Reads at most `limit` records, or goes one step further towards more.
    pub(super) fn read(
        &mut self,
        terms: &Terms<'_>,
        limit: usize,
    ) -> Result<Option<Read>, SourceError> {
        self.nothing_came_late()?;
        if self.open.is_none() {
            self.open(terms)?;
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        if let Phase::AtEnd { .. } = open.phase {
            open.look()?;
        }
        match open.phase.clone() {
            Phase::Reading | Phase::Sealed => return open.read(limit),
            Phase::AtEnd { quiet } => self.wait(terms, quiet),
            Phase::Cut { since, position } => self.find_copy(terms, since, &position)?,
            Phase::Done => self.go_to_next(terms)?,
        }
        Ok(None)
    }

    /// Opens the file that stands at the path, or goes on in the one that was read before.
    pub(super) fn open(&mut self, terms: &Terms<'_>) -> Result<(), SourceError> {
        let Some(position) = self.begin.clone() else {
            return self.open_current(terms);
        };
        match terms.source.locate(&self.found, &position, false) {
            Ok(located) => {
                self.older = ids(&older(self.siblings()?, &located.path));
                self.start(terms, located, position.rotation)
            }
            Err(SourceError::Gap { .. }) if terms.source.accepts_changes() => {
                self.rotation = position.rotation + 1;
                self.begin = None;
                self.open_current(terms)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens what stands at the path, from its beginning. What lies beside it is older.
    fn open_current(&mut self, terms: &Terms<'_>) -> Result<(), SourceError> {
        let siblings = self.siblings()?;
        if let Some(located) = self.beginning(terms, &self.found.path)? {
            self.older = ids(&siblings);
            self.start(terms, located, self.rotation)?;
        }
        Ok(())
    }

    /// Begins to read a file, unless its header has not come yet.
    fn start(
        &mut self,
        terms: &Terms<'_>,
        located: Located,
        rotation: u64,
    ) -> Result<(), SourceError> {
        let Located { mut window, path, id } = located;
        let plain = window.file().is_some();
        let found = Found { name: Arc::clone(&self.found.name), path };
        let window = window.growing(plain);
        let Some(mut partition) = terms.source.partition(&found, window, terms.guessed)? else {
            return Ok(());
        };
        partition.rotation = rotation;
        partition.file = id;
        self.rotation = rotation;
        self.begin = None;
        let phase = if plain { Phase::Reading } else { Phase::Sealed };
        self.open = Some(Open { partition, id, phase, modified: None });
        Ok(())
    }

    /// Waits for more at the end of the file, until another file stands at the path and this one
    /// has been quiet for a while.
    fn wait(&mut self, terms: &Terms<'_>, quiet: Option<Instant>) {
        let Some(open) = &mut self.open else { return };
        let stands = fs::metadata(&self.found.path).ok().and_then(|about| FileId::of(&about));
        open.phase = if stands.is_none() || stands == open.id {
            Phase::AtEnd { quiet: None }
        } else if quiet.is_some_and(|since| since.elapsed() >= terms.times.settle) {
            open.partition.window.seal();
            Phase::Sealed
        } else {
            Phase::AtEnd { quiet: quiet.or_else(|| Some(Instant::now())) }
        };
    }

    /// Goes on to the generation after the one that was read to its end.
    fn go_to_next(&mut self, terms: &Terms<'_>) -> Result<(), SourceError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let (id, end) = (open.id, open.partition.position());
        let siblings = self.siblings()?;
        self.older.extend(id);
        let newer = self.newer(terms, &siblings, id, &end);
        let path = newer.map_or(&self.found.path, |sibling| &sibling.path);
        let Some(next) = self.beginning(terms, path)? else { return Ok(()) };
        let next_id = next.id;
        let before = self.open.take();
        self.start(terms, next, end.rotation + 1)?;
        if self.open.is_none() {
            self.open = before;
            return Ok(());
        }
        self.left = before.and_then(|before| before.leave(next_id));
        self.older.retain(|id| siblings.iter().any(|sibling| sibling.id == Some(*id)));
        Ok(())
    }

    /// The next of the files beside the path that came after the one that was read; `None` if that
    /// is the one at the path.
    fn newer<'a>(
        &self,
        terms: &Terms<'_>,
        siblings: &'a [Sibling],
        id: Option<FileId>,
        end: &FilePosition,
    ) -> Option<&'a Sibling> {
        let mut mine = siblings.iter().position(|sibling| id.is_some() && sibling.id == id);
        if mine.is_none() {
            // It may have been compressed by now.
            let copy = locate::copy_of(&terms.source.followed(&self.found), end, siblings);
            mine = copy
                .ok()
                .flatten()
                .and_then(|copy| siblings.iter().position(|s| s.path == copy.path));
        }
        let older = |sibling: &Sibling| sibling.id.is_some_and(|id| self.older.contains(&id));
        match mine.map(|at| (at, &siblings[at].age)) {
            // Names tell the order, as long as they are of one sort. A copy may be given a name
            // that is no place in the order: what was there before is never read for it.
            Some((at, age)) if *age != Age::Unknown => siblings[at + 1..]
                .iter()
                .find(|s| discriminant(&s.age) == discriminant(age) && s.age > *age && !older(s)),
            _ => siblings.iter().find(|s| s.age != Age::Unknown && s.id.is_some() && !older(s)),
        }
    }

    /// The file was cut while it was read: what was not read yet may be in a copy of it.
    fn find_copy(
        &mut self,
        terms: &Terms<'_>,
        since: Instant,
        position: &FilePosition,
    ) -> Result<(), SourceError> {
        let mut siblings = self.siblings()?;
        siblings.retain(|sibling| sibling.id.is_none_or(|id| !self.older.contains(&id)));
        let place = terms.source.followed(&self.found);
        if let Some(copy) = locate::copy_of(&place, position, &siblings)? {
            return self.start(terms, copy, position.rotation);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        if position.offset == 0 {
            // Nothing of it was consumed: a copy, if there is one, is a generation of its own.
            open.id = None;
            open.phase = Phase::Done;
            return Ok(());
        }
        if since.elapsed() < terms.times.search {
            return Ok(());
        }
        if terms.source.accepts_changes() {
            open.phase = Phase::Done;
            return Ok(());
        }
        let what = "the file was cut while it was read, and no copy of it is beside it: what had \
                    been written to it since is lost";
        Err(resume::gap(&self.found.name, position, what, true))
    }

    /// A file from its beginning, if it is there.
    fn beginning(&self, terms: &Terms<'_>, path: &Path) -> Result<Option<Located>, SourceError> {
        let current = *path == *self.found.path;
        let compression = if current { Compression::None } else { Compression::Auto };
        let file = match input::open(path) {
            Ok(file) => file,
            Err(SourceError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if current && !input::is_plain(path, terms.source.compression()) {
            return Err(SourceError::Settings {
                what: format!(
                    "follow: {} is compressed; a compressed file cannot be followed",
                    path.display()
                ),
            });
        }
        let id = file.metadata().ok().and_then(|about| FileId::of(&about));
        let window = terms.source.window_of(file, path, compression)?;
        Ok(Some(Located { window, path: path.to_owned(), id }))
    }

    fn siblings(&self) -> Result<Vec<Sibling>, SourceError> {
        let path = &self.found.path;
        siblings(path).map_err(|error| SourceError::Io { path: path.clone(), error })
    }

    /// Nothing may be written to a file that was read to its end and left.
    fn nothing_came_late(&self) -> Result<(), SourceError> {
        let Some((file, length)) = &self.left else { return Ok(()) };
        match file.metadata() {
            Ok(about) if about.len() > *length => Err(SourceError::Gap {
                partition: self.found.name.to_string(),
                position: format!("rotation {}", self.rotation),
                what: format!(
                    "{} bytes were written to the rotated file after it had been quiet for {} \
                     seconds and was left: they were not read. Have its writer open the new file \
                     sooner after a rotation; the next run goes on without those bytes",
                    about.len() - length,
                    SETTLE.as_secs()
                ),
            }),
            _ => Ok(()),
        }
    }
}

impl Open {
    /// Reads at most `limit` records. A file that was cut meanwhile and written to again gave
    /// something else: that is put aside.
    fn read(&mut self, limit: usize) -> Result<Option<Read>, SourceError> {
        let before = self.partition.position();
        let modified = self.modified();
        let read = self.partition.read(limit)?;
        if !self.begins_as_before(&before)? {
            self.phase = Phase::Cut { since: Instant::now(), position: Box::new(before) };
            return Ok(None);
        }
        self.modified = modified;
        if read.is_none() {
            self.partition.window.release();
            self.phase = match self.phase {
                Phase::Sealed => Phase::Done,
                _ => Phase::AtEnd { quiet: None },
            };
        }
        Ok(read)
    }

    /// Whether the file still begins as it did, so that what was read last is of the same writing.
    /// Looked at after reading: a file that was cut is written from its beginning first.
    fn begins_as_before(&mut self, before: &FilePosition) -> Result<bool, SourceError> {
        let read_end = self.partition.window.read_end();
        let Some(file) = self.partition.window.file() else { return Ok(true) };
        resume::has_head(file, &before.fingerprint, read_end).map_err(|error| self.failed(error))
    }

    /// Looks at a file whose end was reached: there may be more, or what was read was cut away.
    fn look(&mut self) -> Result<(), SourceError> {
        let read_end = self.partition.window.read_end();
        let Some(file) = self.partition.window.file() else { return Ok(()) };
        let length =
            file.metadata().map(|about| about.len()).map_err(|error| self.failed(error))?;
        match length.cmp(&read_end) {
            Ordering::Equal => self.look_closer()?,
            Ordering::Greater => self.phase = Phase::Reading,
            Ordering::Less => {
                let position = Box::new(self.partition.position());
                self.phase = Phase::Cut { since: Instant::now(), position };
            }
        }
        Ok(())
    }

    /// A file that is as long as it was, but was written to since, may have been cut and have grown
    /// to the same length.
    fn look_closer(&mut self) -> Result<(), SourceError> {
        let modified = self.modified();
        if modified == self.modified {
            return Ok(());
        }
        let position = self.partition.position();
        if self.begins_as_before(&position)? {
            self.modified = modified;
        } else {
            self.phase = Phase::Cut { since: Instant::now(), position: Box::new(position) };
        }
        Ok(())
    }

    fn modified(&mut self) -> Option<SystemTime> {
        self.partition.window.file()?.metadata().ok()?.modified().ok()
    }

    fn failed(&self, error: io::Error) -> SourceError {
        SourceError::Io { path: PathBuf::from(&*self.partition.name), error }
    }

    /// Keeps the handle of a file that is left for another, to notice what is written to it later.
    fn leave(mut self, next: Option<FileId>) -> Option<(File, u64)> {
        let length = self.partition.window.read_end();
        let file = self.partition.window.file()?.try_clone().ok()?;
        let about = file.metadata().ok()?;
        (about.len() == length && FileId::of(&about) != next).then_some((file, length))
    }
}

/// Those that were written before the file that is gone on in. All, if it stands at the path or its
/// name says nothing.
fn older(mut siblings: Vec<Sibling>, path: &Path) -> Vec<Sibling> {
    let at = siblings.iter().position(|s| s.path == path && s.age != Age::Unknown);
    siblings.truncate(at.unwrap_or(siblings.len()));
    siblings
}

fn ids(siblings: &[Sibling]) -> HashSet<FileId> {
    siblings.iter().filter_map(|sibling| sibling.id).collect()
}

#[cfg(test)]
impl Followed {
    /// Opens the file anew at its position, as if nothing had been read ahead of the records.
    pub(super) fn forget_read_ahead(&mut self) {
        if let Some(open) = &mut self.open {
            open.partition.window.forget_read_ahead();
        }
    }
}
