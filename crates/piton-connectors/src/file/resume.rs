//! Going on in a file: it is opened, checked to be the one that was read, and brought to the place.
//!
//! A plain file is sought in, and only the parts that head and tail cover are read for the check.
//! A compressed one has to be decompressed up to the place anyway, so all of it is checked.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

use super::{
    fingerprint::{self, Fingerprint, Fingerprinter},
    input::Input,
    position::FilePosition,
    settings::Compression,
    window::{BOM, Window, ends_record},
};
use crate::source::SourceError;

/// A file to go on in.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// What the partition is called.
    pub(super) partition: &'a str,
    /// Where it lies.
    pub(super) path: &'a Path,
    /// How it is compressed.
    pub(super) compression: Compression,
    /// The most that a record may have, in bytes.
    pub(super) limit: usize,
}

/// How much is to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Head and tail of what was consumed.
    Ends,
    /// Every byte of it.
    All,
    /// Nothing: an operator accepts the file as it is.
    Accept,
}

/// Why a file cannot be gone on in.
pub(super) enum Refusal {
    /// It is not what was consumed; an operator may accept that.
    Changed(String),
    /// It ends before the place.
    Shortened(String),
    /// It could not be read.
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Refusal {
    /// The error of a source, with the choices.
    pub(super) fn at(self, place: &Place<'_>, position: &FilePosition) -> SourceError {
        match self {
            Self::Io(error) => SourceError::Io { path: place.path.to_owned(), error },
            Self::Changed(what) => gap(place.partition, position, &what, true),
            Self::Shortened(what) => gap(place.partition, position, &what, false),
        }
    }
}

/// A gap, with the choices.
pub(super) fn gap(
    partition: &str,
    position: &FilePosition,
    what: &str,
    can_accept: bool,
) -> SourceError {
    let accept = match can_accept {
        true if what.contains("is gone") => ", or go on without it with --accept-changes",
        true => ", or go on in the file as it is now with --accept-changes",
        false => "",
    };
    SourceError::Gap {
        partition: partition.to_owned(),
        position: position.to_string(),
        what: format!(
            "{what}. Put back the file that was read, or forget the progress with \
             `piton reset`{accept}"
        ),
    }
}

/// Opens a stream at a position.
pub(super) fn open(
    place: &Place<'_>,
    file: File,
    position: &FilePosition,
    check: Check,
) -> Result<Window, SourceError> {
    resume(place, file, position, check).map_err(|refusal| refusal.at(place, position))
}

/// As [`open`], with the reason for a refusal.
pub(super) fn resume(
    place: &Place<'_>,
    file: File,
    position: &FilePosition,
    check: Check,
) -> Result<Window, Refusal> {
    let mut input = Input::of(file, place.compression)?;
    let mut before = Vec::new();
    let hasher = match &mut input {
        Input::Plain(file) => {
            not_shorter(file, position)?;
            match check {
                Check::Ends => check_ends(file, position, &mut before)?,
                Check::All => read_through(file, position, true, &mut before)?,
                Check::Accept => read_through(file, position, false, &mut before)?,
            }
        }
        packed => read_through(packed, position, check != Check::Accept, &mut before)?,
    };
    let window = Window::new(input, place.path.to_owned(), hasher, position.line, place.limit);
    not_continued(window, &before, position, check)
}

fn not_shorter(file: &File, position: &FilePosition) -> Result<(), Refusal> {
    let size = file.metadata()?.len();
    if size >= position.offset {
        return Ok(());
    }
    Err(Refusal::Shortened(format!(
        "the file was shortened: {} bytes of it were consumed, and it now has {size}",
        position.offset
    )))
}

/// Whether a file that is being read still begins as it did. It is read on from `read_end`.
pub(super) fn has_head(file: &mut File, known: &Fingerprint, read_end: u64) -> io::Result<bool> {
    let mut bytes = Vec::new();
    let read = read_exactly(file, 0..known.upto.min(fingerprint::CHUNK as u64), &mut bytes);
    file.seek(SeekFrom::Start(read_end))?;
    match read {
        Ok(()) => Ok(fingerprint::head_of(&bytes) == known.head),
        Err(Refusal::Changed(_) | Refusal::Shortened(_)) => Ok(false),
        Err(Refusal::Io(error)) => Err(error),
    }
}

/// Compares what the fingerprint's head and tail cover, and goes on to the offset.
fn check_ends(
    file: &mut File,
    position: &FilePosition,
    before: &mut Vec<u8>,
) -> Result<Fingerprinter, Refusal> {
    let known = &position.fingerprint;
    let mut bytes = Vec::new();
    let head = known.upto.min(fingerprint::CHUNK as u64);
    read_exactly(file, 0..head, &mut bytes)?;
    if fingerprint::head_of(&bytes) != known.head {
        let which = if head == known.upto { "they" } else { "the first of them" };
        return Err(rewritten(file, known, which));
    }
    let recent = fingerprint::recent_from(known.upto);
    read_exactly(file, recent..known.upto, &mut bytes)?;
    let mut hasher = Fingerprinter::after(known, &bytes);
    if hasher.fingerprint() != *known {
        return Err(rewritten(file, known, "the last of them"));
    }
    keep_end(before, &bytes);
    pass(file, position.offset - known.upto, &mut hasher, before)?;
    Ok(hasher)
}

fn read_exactly(
    file: &mut File,
    range: std::ops::Range<u64>,
    into: &mut Vec<u8>,
) -> Result<(), Refusal> {
    into.clear();
    file.seek(SeekFrom::Start(range.start))?;
    file.by_ref().take(range.end - range.start).read_to_end(into)?;
    if (into.len() as u64) < range.end - range.start {
        return Err(Refusal::Shortened("the file was shortened while it was checked".to_owned()));
    }
    Ok(())
}

/// Reads everything up to the offset, comparing on the way.
fn read_through(
    input: &mut impl Read,
    position: &FilePosition,
    compare: bool,
    before: &mut Vec<u8>,
) -> Result<Fingerprinter, Refusal> {
    let known = &position.fingerprint;
    let mut hasher = Fingerprinter::new();
    let head = known.upto.min(fingerprint::CHUNK as u64);
    pass(input, head, &mut hasher, before)?;
    if compare && hasher.fingerprint().head != known.head {
        return Err(Refusal::Changed(format!(
            "the file was rewritten: its first {head} bytes are not those that were consumed"
        )));
    }
    pass(input, known.upto - head, &mut hasher, before)?;
    if compare && hasher.fingerprint() != *known {
        return Err(Refusal::Changed(format!(
            "the file was rewritten: the first {} bytes are not those that were consumed",
            known.upto
        )));
    }
    pass(input, position.offset - known.upto, &mut hasher, before)?;
    Ok(hasher)
}

/// Hashes the next `count` bytes, and keeps the last few.
fn pass(
    input: &mut impl Read,
    count: u64,
    hasher: &mut Fingerprinter,
    before: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let mut buffer = vec![0; fingerprint::CHUNK];
    let mut left = count;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        let read = match input.read(&mut buffer[..most]) {
            Ok(0) => {
                return Err(Refusal::Shortened(format!(
                    "the file was shortened: it ends {left} bytes before that"
                )));
            }
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        hasher.update(&buffer[..read]);
        keep_end(before, &buffer[..read]);
        left -= read as u64;
    }
    Ok(())
}

/// Keeps the last three bytes: enough to tell a line end or a byte order mark.
fn keep_end(before: &mut Vec<u8>, bytes: &[u8]) {
    before.extend_from_slice(&bytes[bytes.len().saturating_sub(3)..]);
    before.drain(..before.len().saturating_sub(3));
}

fn rewritten(file: &File, known: &Fingerprint, which: &str) -> Refusal {
    let size = file.metadata().map(|about| about.len().to_string());
    Refusal::Changed(format!(
        "the file was rewritten: {} bytes of it were consumed, and {which} are no longer the same \
         (it now has {})",
        known.upto,
        size.unwrap_or_else(|_| "an unknown number of".to_owned())
    ))
}

/// The last line of a file may lack its end. If the file was then continued in that very line, a
/// consumed record was changed.
fn not_continued(
    mut window: Window,
    before: &[u8],
    position: &FilePosition,
    check: Check,
) -> Result<Window, Refusal> {
    let begins = position.offset == 0 || (position.offset == 3 && before == BOM);
    if begins || ends_record(before) {
        return Ok(window);
    }
    let more = window.more().map_err(|error| match error {
        SourceError::Io { error, .. } => Refusal::Io(error),
        other => Refusal::Changed(other.to_string()),
    })?;
    if !more || ends_record(&window.bytes()[..1]) {
        return Ok(window);
    }
    if check == Check::Accept {
        // What is left of the line is not a record.
        let _ = window.pass_line();
        return Ok(window);
    }
    Err(Refusal::Changed(format!(
        "line {} was consumed as the last one, without a line end, and was continued since",
        position.line
    )))
}
