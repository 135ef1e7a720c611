//! The bytes that lie between the file and the records: read ahead, cut into lines, hashed as they
//! are consumed.
//!
//! Memory is bounded: the buffer is one chunk, and grows only while one record is longer than
//! that, up to the record limit and a chunk.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::PathBuf,
};

use super::{
    fingerprint::{Fingerprint, Fingerprinter},
    input::Input,
};
use crate::source::SourceError;

/// How much is read at once.
pub(super) const CHUNK: usize = 256 * 1024;

/// The byte order mark that some programs put before UTF-8.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// A stream from some offset on.
pub(super) struct Window {
    input: Input,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Up to where the consumed bytes of the buffer were hashed.
    hashed: usize,
    /// The first byte that is not consumed.
    start: usize,
    /// After the last byte that was read.
    end: usize,
    /// Of `start`, in the stream.
    offset: u64,
    /// Of `start`, from 1.
    line: u64,
    hasher: Fingerprinter,
    /// Whether more may come after the end: then what is not ended is waited for.
    growing: bool,
    limit: usize,
}

/// What the next line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// So many bytes, with its line end.
    Ended(usize),
    /// So many bytes that the stream's end ends.
    Open(usize),
    /// Longer than the record limit.
    Long,
    /// The stream's end.
    Nothing,
}

/// Where lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// After a newline.
    Newline,
    /// After a newline, a carriage return, or both.
    Either,
}

impl Ends {
    fn find(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Newline => memchr::memchr(b'\n', bytes),
            Self::Either => memchr::memchr2(b'\n', b'\r', bytes),
        }
    }
}

impl Window {
    /// A stream that stands at the end of what `hasher` has seen, at the given line. `limit` is
    /// the most that a record may have.
    pub(super) fn new(
        input: Input,
        path: PathBuf,
        hasher: Fingerprinter,
        line: u64,
        limit: usize,
    ) -> Self {
        Self {
            input,
            path,
            buffer: Vec::new(),
            hashed: 0,
            start: 0,
            end: 0,
            offset: hasher.upto(),
            line,
            hasher,
            growing: false,
            limit,
        }
    }

    /// The same, of a file that may grow.
    pub(super) fn growing(mut self, growing: bool) -> Self {
        self.growing = growing;
        self
    }

    /// From now on what the stream's end ends is whole.
    pub(super) fn seal(&mut self) {
        self.growing = false;
    }

    /// Whether more may come after the end.
    pub(super) fn is_growing(&self) -> bool {
        self.growing
    }

    /// Where the next byte stands in the stream.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The line of the next byte, from 1.
    pub(super) fn line_number(&self) -> u64 {
        self.line
    }

    /// What was read and not consumed.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Passes over bytes that contain so many line ends.
    pub(super) fn consume(&mut self, bytes: usize, lines: u64) {
        self.start += bytes;
        self.offset += bytes as u64;
        self.line += lines;
    }

    /// The fingerprint of all that was consumed.
    pub(super) fn fingerprint(&mut self) -> Fingerprint {
        self.hash_consumed();
        self.hasher.fingerprint()
    }

    fn hash_consumed(&mut self) {
        self.hasher.update(&self.buffer[self.hashed..self.start]);
        self.hashed = self.start;
    }

    /// Reads more. False at the end of the stream, which may only be the end for now.
    pub(super) fn more(&mut self) -> Result<bool, SourceError> {
        self.make_room();
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(SourceError::Io { path: self.path.clone(), error }),
            }
        }
    }

    fn make_room(&mut self) {
        self.hash_consumed();
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        (self.start, self.hashed) = (0, 0);
        if self.end == self.buffer.len() {
            let most = (self.limit + CHUNK).max(self.end + CHUNK);
            self.buffer.resize((2 * self.end).clamp(CHUNK, most), 0);
        } else if self.end < CHUNK / 2 && self.buffer.len() > 4 * CHUNK {
            self.buffer.truncate(CHUNK);
            self.buffer.shrink_to_fit();
        }
    }

    /// Gives the buffer back where nothing is in it, until more is read.
    pub(super) fn release(&mut self) {
        if self.start == self.end {
            self.hash_consumed();
            (self.hashed, self.start, self.end) = (0, 0, 0);
            self.buffer = Vec::new();
        }
    }

    /// How far the stream was read, consumed or not.
    pub(super) fn read_end(&self) -> u64 {
        self.offset + self.bytes().len() as u64
    }

    /// The file, if it is read as it stands.
    pub(super) fn file(&mut self) -> Option<&mut File> {
        match &mut self.input {
            Input::Plain(file) => Some(file),
            Input::Packed(_) | Input::Text(_) => None,
        }
    }

    /// Puts back what was read and not consumed.
    #[cfg(test)]
    pub(super) fn forget_read_ahead(&mut self) {
        use std::io::{Seek, SeekFrom};
        self.end = self.start;
        let offset = self.offset;
        if let Some(file) = self.file() {
            file.seek(SeekFrom::Start(offset)).unwrap();
        }
    }

    /// Brings the next line into the buffer. A byte order mark before the first is passed over.
    pub(super) fn next_line(&mut self, ends: Ends) -> Result<Line, SourceError> {
        if self.offset == 0 {
            self.pass_byte_order_mark()?;
        }
        let mut searched = 0;
        loop {
            let bytes = self.bytes();
            if let Some(at) = ends.find(&bytes[searched..]) {
                let at = searched + at;
                if at > self.limit {
                    return Ok(Line::Long);
                }
                return self.ended_at(at);
            }
            searched = bytes.len();
            if searched > self.limit {
                return Ok(Line::Long);
            }
            if !self.more()? {
                return Ok(if searched == 0 { Line::Nothing } else { Line::Open(searched) });
            }
        }
    }

    /// A carriage return takes a newline after it along.
    fn ended_at(&mut self, at: usize) -> Result<Line, SourceError> {
        if self.bytes()[at] == b'\n' {
            return Ok(Line::Ended(at + 1));
        }
        if at + 1 == self.bytes().len() && !self.more()? {
            return Ok(if self.growing { Line::Open(at + 1) } else { Line::Ended(at + 1) });
        }
        let both = self.bytes().get(at + 1) == Some(&b'\n');
        Ok(Line::Ended(at + 1 + usize::from(both)))
    }

    fn pass_byte_order_mark(&mut self) -> Result<(), SourceError> {
        while self.bytes().len() < BOM.len() && self.more()? {}
        if self.bytes().starts_with(BOM) {
            self.consume(BOM.len(), 0);
        }
        Ok(())
    }

    /// Passes over the rest of a line without keeping it. False if the stream ended before the
    /// line did.
    pub(super) fn pass_line(&mut self) -> Result<bool, SourceError> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', self.bytes()) {
                self.consume(at + 1, 1);
                return Ok(true);
            }
            self.consume(self.bytes().len(), 0);
            if !self.more()? {
                return Ok(false);
            }
        }
    }
}

/// Whether bytes end a record, so that what follows is another.
pub(super) fn ends_record(before: &[u8]) -> bool {
    matches!(before.last(), Some(b'\n' | b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn window(text: &[u8], limit: usize) -> Window {
        let input = Input::Text(Cursor::new(text.to_vec()));
        Window::new(input, "x".into(), Fingerprinter::new(), 1, limit)
    }

    #[test]
    fn lines_end_in_three_ways() {
        let mut window = window(b"\xef\xbb\xbfa\r\nbb\rc\n", 100);
        for expected in [3, 3, 2] {
            assert_eq!(window.next_line(Ends::Either).unwrap(), Line::Ended(expected));
            window.consume(expected, 1);
        }
        assert_eq!(window.next_line(Ends::Either).unwrap(), Line::Nothing);
        assert_eq!((window.offset(), window.line_number()), (11, 4));
    }

    #[test]
    fn a_long_line_does_not_fill_memory() {
        // Invariant 8: memory is bounded by configuration.
        let mut text = vec![b'x'; 40 * CHUNK];
        text.extend(b"\nnext\n");
        let mut window = window(&text, CHUNK);
        assert_eq!(window.next_line(Ends::Newline).unwrap(), Line::Long);
        assert!(window.pass_line().unwrap());
        assert!(window.buffer.capacity() <= 2 * CHUNK);
        assert_eq!(window.next_line(Ends::Newline).unwrap(), Line::Ended(5));
        window.consume(5, 1);
        let mut all = Fingerprinter::new();
        all.update(&text);
        assert_eq!(window.fingerprint(), all.fingerprint());
    }
}
