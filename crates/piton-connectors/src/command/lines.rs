//! What a command prints, line by line, in bounded memory.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write as _},
    ops::ControlFlow,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// How much is read at once, in bytes.
pub(super) const CHUNK: usize = 64 * 1024;

/// The longest line that is told whole, in bytes.
const TOLD: usize = 8 * 1024;

/// How many of the last lines are kept for an error.
const LAST_LINES: usize = 5;

/// The most that is kept of each of them, in characters.
const LAST_CHARS: usize = 300;

/// A part of what was printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Whole lines, each with its line end.
    Lines(&'a [u8]),
    /// The beginning of a line that is longer than the limit. The rest of it is passed over.
    Long(&'a [u8]),
    /// The last line, which only the end of the stream ended.
    Open(&'a [u8]),
}

/// Reads to the end, as it comes. Lines longer than `limit` may still be among whole lines.
/// Memory: `limit` and a chunk.
pub(super) fn pieces(
    mut input: impl Read,
    limit: usize,
    mut take: impl FnMut(Piece<'_>) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let (mut filled, mut passing) = (0, false);
    loop {
        if filled == buffer.len() {
            buffer.resize((2 * filled).min(limit + CHUNK), 0);
        }
        let read = match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let searched = filled;
        filled += read;
        let mut start = 0;
        if passing {
            start = memchr::memchr(b'\n', &buffer[..filled]).map_or(filled, |at| at + 1);
            passing = buffer[..start].last() != Some(&b'\n');
        }
        let from = start.max(searched);
        if let Some(at) = memchr::memrchr(b'\n', &buffer[from..filled]) {
            let end = from + at + 1;
            if take(Piece::Lines(&buffer[start..end])).is_break() {
                return Ok(());
            }
            start = end;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if filled > limit {
            if take(Piece::Long(&buffer[..filled])).is_break() {
                return Ok(());
            }
            (filled, passing) = (0, true);
        }
        if filled < CHUNK / 2 && buffer.len() > CHUNK {
            buffer.truncate(CHUNK);
            buffer.shrink_to_fit();
        }
    }
    if filled > 0 {
        let _ = take(Piece::Open(&buffer[..filled]));
    }
    Ok(())
}

/// Told of what a command prints. Any `FnMut(&str)` is one.
pub trait Listener: Send {
    /// A line, without its end. Bytes that are not UTF-8 are replaced; what is beyond 8 KiB is cut.
    fn line(&mut self, line: &str);

    /// There is no more to tell for now.
    fn caught_up(&mut self) {}
}

impl<F: FnMut(&str) + Send> Listener for F {
    fn line(&mut self, line: &str) {
        self(line);
    }
}

type Write = Box<dyn Fn(&[u8]) + Send + Sync>;

static BY: OnceLock<Write> = OnceLock::new();

/// Has what commands say on standard error, in whole lines, written by this: whoever draws there
/// puts it above the picture. The first call counts.
pub fn pass_on_by(write: impl Fn(&[u8]) + Send + Sync + 'static) {
    let _ = BY.set(Box::new(write));
}

/// Passes lines on to the standard error of this process, each with a name before it. Nobody need
/// listen there; where somebody is slow, the command waits.
#[derive(Debug)]
pub struct PassOn {
    name: String,
    gathered: String,
}

impl PassOn {
    /// Names whose lines these are.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), gathered: String::new() }
    }
}

impl Listener for PassOn {
    fn line(&mut self, line: &str) {
        for part in [&self.name, ": ", line, "\n"] {
            self.gathered.push_str(part);
        }
        if self.gathered.len() >= CHUNK {
            self.caught_up();
        }
    }

    fn caught_up(&mut self) {
        let lines = self.gathered.as_bytes();
        match BY.get() {
            Some(write) => write(lines),
            None => drop(io::stderr().write_all(lines)),
        }
        self.gathered.clear();
    }
}

/// Tells a listener each line, to the end of the stream. An end by an error is an end.
pub(super) fn tell(input: impl Read, listener: &mut dyn Listener) {
    let _ = pieces(input, TOLD, |piece| {
        match piece {
            Piece::Lines(lines) => each(lines).for_each(|line| tell_line(line, listener)),
            Piece::Long(line) | Piece::Open(line) => tell_line(line, listener),
        }
        listener.caught_up();
        ControlFlow::Continue(())
    });
}

fn tell_line(line: &[u8], listener: &mut dyn Listener) {
    if line.len() <= TOLD {
        return listener.line(&String::from_utf8_lossy(line));
    }
    listener.line(&(String::from_utf8_lossy(&line[..TOLD]) + " … [cut]"));
}

/// The lines of a piece, without their ends.
pub(super) fn each(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ended = lines.strip_suffix(b"\n").unwrap_or(lines);
    ended.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The last lines that were told, for an error.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// On one line; empty if nothing was told.
    pub(super) fn shown(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }

    fn keep(&self, line: &str) {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = if lines.len() < LAST_LINES {
            String::new()
        } else {
            lines.pop_front().unwrap_or_default()
        };
        kept.clear();
        for char in line.chars().take(LAST_CHARS) {
            match char {
                '\t' => kept.push(' '),
                // Nothing in an error speaks to a terminal.
                char if char.is_control() => kept.extend(char.escape_default()),
                char => kept.push(char),
            }
        }
        lines.push_back(kept);
    }
}

/// A listener that keeps the last lines, too.
pub(super) struct Keeping<L> {
    pub(super) tail: Tail,
    pub(super) listener: L,
}

impl<L: Listener> Listener for Keeping<L> {
    fn line(&mut self, line: &str) {
        self.tail.keep(line);
        self.listener.line(line);
    }

    fn caught_up(&mut self) {
        self.listener.caught_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that gives so many bytes at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn told(text: &[u8], limit: usize, at_once: usize) -> Vec<String> {
        let mut all = Vec::new();
        pieces(Slowly(text, at_once), limit, |piece| {
            match piece {
                Piece::Lines(lines) => {
                    all.extend(each(lines).map(|l| String::from_utf8_lossy(l).into_owned()));
                }
                Piece::Long(line) => all.push(format!("long {}", line.len() > limit)),
                Piece::Open(line) => all.push(format!("open {}", String::from_utf8_lossy(line))),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        all
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        for at_once in [1, 2, 3, 7, 1000] {
            let lines = told(b"a\r\n\nbb\nc", 100, at_once);
            assert_eq!(lines, ["a", "", "bb", "open c"], "{at_once} at once");
        }
    }

    #[test]
    fn a_long_line_is_passed_over_and_the_next_is_whole() {
        let long = [vec![b'x'; 10 * CHUNK], b"\nnext\n".to_vec()].concat();
        for at_once in [1000, CHUNK, usize::MAX] {
            assert_eq!(told(&long, 2000, at_once), ["long true", "next"], "{at_once} at once");
        }
        assert_eq!(told(&long[..CHUNK], 2000, 999), ["long true"], "without an end");
    }

    #[test]
    fn nothing_in_the_last_lines_speaks_to_a_terminal() {
        let tail = Tail::default();
        tail.keep("\u{1b}[2Jred\u{7}\tend\r");
        assert_eq!(tail.shown(), "\\u{1b}[2Jred\\u{7} end");
    }

    #[test]
    fn the_last_lines_are_kept_and_bounded() {
        let tail = Tail::default();
        let long = "x".repeat(500);
        let lines: Vec<String> = (0..1000).map(|n| format!("{n} {long}\n")).collect();
        let text = lines.join("\n");
        let mut count = 0;
        let listener = |_: &str| count += 1;
        tell(text.as_bytes(), &mut Keeping { tail: tail.clone(), listener });
        assert_eq!(count, 1999);
        let shown = tail.shown();
        assert!(shown.starts_with("995 x") && shown.contains(" | 999 x"), "{shown}");
        assert!(shown.len() < 5 * (LAST_CHARS + 3));
    }
}
